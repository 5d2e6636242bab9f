"""OpenAI's SDK against a real gateway that keeps responses: through a kill, in several processes, in both databases."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.fake.engine import FakeEngine
from tests.reload.test_processes import Running, running, workers
from tests.store import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the setting `server.data`, as a config writes it."""
    if request.param == "sqlite":
        return str(tmp_path / "data")
    found: postgres.Server = request.getfixturevalue("server")
    return f'{{folder: {tmp_path / "data"}, database: "{found.database()}"}}'


def text(engine: FakeEngine, data: str) -> str:
    return (
        f'server: {{listen: "127.0.0.1:0", data: {data}}}\n'
        f'backends: {{e: {{engine: openai, url: "{engine.url}", native: {{responses: false}}}}}}\n'
        "models: {m: {targets: {e: m}}}\n"
    )


def client(gateway: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="-", max_retries=0)


async def answered(sdk: openai.AsyncOpenAI, **asked: Any) -> Any:
    """Make a response as a stream, read to its end."""
    async with sdk.responses.stream(model="m", **asked) as stream:
        return await stream.get_final_response()


async def test_every_call_of_the_sdk(tmp_path: Path, data: str) -> None:
    async with (
        FakeEngine(models=["m"]) as engine,
        running(tmp_path, text(engine, data)) as gateway,
        client(gateway) as sdk,
    ):
        first = await sdk.responses.create(model="m", input="one")
        second = await answered(sdk, input="two", previous_response_id=first.id)
        assert (await sdk.responses.retrieve(second.id)).output_text == second.output_text
        items = [
            item.to_dict() async for item in sdk.responses.input_items.list(second.id, order="asc", limit=1)
        ]
        texts = [item["content"][0]["text"] for item in items]  # type: ignore[index]
        assert texts == ["one", first.output_text, "two"]
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            await sdk.responses.cancel(second.id)
        await sdk.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.responses.create(model="m", input="three", previous_response_id=second.id)
        assert caught.value.code == "previous_response_not_found" and first.id in caught.value.message
        assert not [line for line in gateway.log if "a-password" in line]


async def killed(folder: Path, content: str, made: list[Any]) -> None:
    """Make some responses, and kill the gateway as soon as the last one can be read. Always raises."""
    async with running(folder, content) as gateway, client(gateway) as sdk:
        made += [await answered(sdk, input=f"number {number}") for number in range(20)]
        # An answer is kept within a moment of its end; who can read it cannot lose it.
        assert (await sdk.responses.retrieve(made[-1].id)).id == made[-1].id
        os.kill(gateway.process.pid, signal.SIGKILL)
        await gateway.process.wait()
        raise AssertionError(gateway.process.returncode)


async def test_what_was_kept_survives_a_kill_and_a_stop_keeps_the_last_answer(
    tmp_path: Path, data: str
) -> None:
    async with FakeEngine(models=["m"]) as engine:
        content = text(engine, data)
        async with running(tmp_path, content) as gateway, client(gateway) as sdk:
            last = await sdk.responses.create(model="m", input="just before the stop")
        made: list[Any] = []
        with pytest.raises(AssertionError, match="-9"):
            await killed(tmp_path, content, made)
        async with running(tmp_path, content) as gateway, client(gateway) as sdk:
            for each in (last, *made):
                assert (await sdk.responses.retrieve(each.id)).output_text == each.output_text
            more = await answered(sdk, input="and on", previous_response_id=made[0].id)
            assert more.previous_response_id == made[0].id


async def test_a_response_of_one_process_is_there_in_all(tmp_path: Path, data: str) -> None:
    async with (
        FakeEngine(models=["m"]) as engine,
        running(tmp_path, text(engine, data), "--workers", "2") as gateway,
    ):
        await gateway.serve(2)
        assert len(workers(gateway)) == 2

        async def once(number: int) -> None:
            # A client of its own has a connection of its own, which the system gives to either process.
            async with client(gateway) as one, client(gateway) as other:
                made = await answered(one, input=f"number {number}")
                assert (await other.responses.retrieve(made.id)).id == made.id
                more = await answered(other, input="go on", previous_response_id=made.id)
                assert more.previous_response_id == made.id

        await asyncio.gather(*(once(number) for number in range(20)))


LATER: dict[str, Any] = {"model": "m", "input": "wait", "background": True}


async def begun(sdk: openai.AsyncOpenAI, other: openai.AsyncOpenAI) -> str:
    """Have a response be made in the background; return its id once `other` sees that its answer has begun."""
    made: Any = await sdk.responses.create(**LATER)
    for _ in range(400):
        if (await other.responses.retrieve(made.id)).status == "in_progress":
            return str(made.id)
        await asyncio.sleep(0.05)
    raise TimeoutError(made.id)


async def killed_later(folder: Path, content: str, made: list[str]) -> None:
    """Kill a gateway that makes a response in the background. Always raises."""
    async with running(folder, content) as gateway, client(gateway) as sdk:
        made.append(await begun(sdk, sdk))
        os.kill(gateway.process.pid, signal.SIGKILL)
        await gateway.process.wait()
        raise AssertionError(gateway.process.returncode)


async def test_in_the_background_it_is_cancelled_by_any_process_and_failed_by_a_kill(
    tmp_path: Path, data: str
) -> None:
    held = {"match": {"contains": "wait"}, "say": "at last", "first_token": 60}
    async with FakeEngine(models=["m"], rules=[held]) as engine:
        content = text(engine, data)
        async with running(tmp_path, content, "--workers", "2") as gateway:
            await gateway.serve(2)

            async def once() -> None:
                async with client(gateway) as one, client(gateway) as other:
                    name = await begun(one, other)
                    assert (await other.responses.cancel(name)).status == "cancelled"
                    assert (await one.responses.retrieve(name)).status == "cancelled"

            await asyncio.gather(*(once() for _ in range(8)))
            await engine.closed(8)
        made: list[str] = []
        with pytest.raises(AssertionError, match="-9"):
            await killed_later(tmp_path, content, made)
        async with running(tmp_path, content) as gateway, client(gateway) as sdk:
            failed = await sdk.responses.retrieve(made[0])
            assert failed.status == "failed" and failed.error is not None
            assert "the gateway stopped while it made this response" in failed.error.message

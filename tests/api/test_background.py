"""Responses that are made in the background, as OpenAI's SDK begins, looks at, follows and cancels them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from gateway.store.tables import background
from tests.api.test_responses_kept import ANN, BOB, PATH, client, keeping, make, speak
from tests.api.test_responses_kept import response as native_response
from tests.conformance import sdk as shapes
from tests.faults.clients import until
from tests.serving import Served

OPEN = ("queued", "in_progress")
HELD: list[dict[str, Any]] = [{"say": "one two", "first_token": 30}]
ASKED: dict[str, Any] = {"model": "public", "input": "hi", "background": True}


async def looked(sdk: openai.AsyncOpenAI, name: str, wanted: Callable[[Any], bool]) -> Any:
    """Return a response once it is as wanted, as its client would: by looking again and again."""
    for _ in range(400):
        if wanted(found := await sdk.responses.retrieve(name)):
            return found
        await asyncio.sleep(0.05)
    raise TimeoutError(found.status)


async def ended(sdk: openai.AsyncOpenAI, name: str) -> Any:
    return await looked(sdk, name, lambda found: found.status not in OPEN)


async def statuses(sdk: openai.AsyncOpenAI, name: str, status: str) -> None:
    await looked(sdk, name, lambda found: found.status == status)


@pytest.mark.parametrize("native", ["native", "translated"])
async def test_it_is_answered_at_once_and_made_afterwards(tmp_path: Path, native: str) -> None:
    async with keeping(tmp_path, native) as (engine, served), client(served) as sdk:
        if native == "native":
            speak(engine, native_response("resp_of_engine", "hello"), False)
        begun = await sdk.responses.create(**ASKED)
        assert (begun.status, begun.background, begun.output, begun.model) == ("queued", True, [], "public")
        shapes.fits(begun.to_dict())
        made = await ended(sdk, begun.id)
        assert (made.id, made.status, made.background) == (begun.id, "completed", True)
        assert made.output_text and made.usage.total_tokens > 0 and made.created_at == begun.created_at
        # It is one of the responses that are kept, and continued like any other.
        assert "background" not in engine.requests[-1].json()
        [item] = (await sdk.responses.input_items.list(made.id)).data
        assert item.to_dict()["content"][0]["text"] == "hi"  # type: ignore[index]
        if native == "native":
            speak(engine, native_response("resp_2", "so"), False)
        await sdk.responses.create(model="public", input="and?", previous_response_id=made.id)
        said = engine.requests[-1].json()
        assert len(said.get("messages") or said["input"]) == 3
        assert served.metric("gateway_requests_total", operation="responses", outcome="ok") == 2
        await sdk.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(made.id)


async def test_it_continues_a_conversation(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        begun = await sdk.responses.create(**ASKED, previous_response_id=first.id)
        made = await ended(sdk, begun.id)
        assert made.previous_response_id == first.id
        texts = [message["content"] for message in engine.requests[-1].json()["messages"]]
        assert texts == ["hi 1", first.output_text, "hi"]
        listed = await sdk.responses.input_items.list(made.id, order="asc")
        assert len(listed.data) == 3


async def test_its_states_and_its_cancelling(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        engine.set(rules=HELD)
        begun = await sdk.responses.create(**ASKED, stream=False)
        await statuses(sdk, begun.id, "in_progress")
        [item] = (await sdk.responses.input_items.list(begun.id)).data
        assert item.to_dict()["content"][0]["text"] == "hi"  # type: ignore[index]
        async with client(served, BOB) as bob:
            for ask in (bob.responses.retrieve, bob.responses.cancel, bob.responses.delete):
                with pytest.raises(openai.NotFoundError):
                    await ask(begun.id)
        cancelled = await sdk.responses.cancel(begun.id)
        assert (cancelled.id, cancelled.status) == (begun.id, "cancelled")
        await engine.closed(1)  # the engine hears of it at once
        assert (await sdk.responses.retrieve(begun.id)).status == "cancelled"
        assert (await sdk.responses.cancel(begun.id)).status == "cancelled"  # as often as one likes
        with pytest.raises(openai.BadRequestError):
            await sdk.responses.create(model="public", input="x", previous_response_id=begun.id)
        await until(lambda: served.metric("gateway_requests_total", outcome="cancelled") == 1, "counted")
        await sdk.responses.delete(begun.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(begun.id)


async def test_one_that_is_deleted_is_cancelled(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        engine.set(rules=HELD)
        begun = await sdk.responses.create(**ASKED)
        await statuses(sdk, begun.id, "in_progress")
        await sdk.responses.delete(begun.id)
        await engine.closed(1)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(begun.id)


async def test_one_that_has_ended_is_not_cancelled(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        made = await ended(sdk, (await sdk.responses.create(**ASKED)).id)
        assert (await sdk.responses.cancel(made.id)).status == "completed"
        plain = await make(sdk, engine, "translated whole")
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await sdk.responses.cancel(plain.id)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_says_why(tmp_path: Path, stream: bool) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        engine.set(rules=[{"reply": {"status": 400, "body": {"error": {"message": "too many tools"}}}}])
        if stream:
            events = [event async for event in await sdk.responses.create(**ASKED, stream=True)]
            assert events[-1].type == "response.failed"
            name = events[-1].response.id
        else:
            name = (await sdk.responses.create(**ASKED)).id
        failed = await ended(sdk, name)
        assert (failed.status, failed.background) == ("failed", True)
        assert failed.error is not None and "too many tools" in failed.error.message
        shapes.fits(failed.to_dict())


async def test_a_stream_goes_on_without_its_client_and_is_followed_again(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        slow = {"say": " ".join(f"w{n}" for n in range(8)), "gap": 0.1}
        engine.set(rules=[slow])
        seen: list[Any] = []
        async with await sdk.responses.create(**ASKED, stream=True) as stream:
            async for event in stream:
                seen.append(event)
                if event.type == "response.output_text.delta":
                    break
        assert [event.type for event in seen[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        name = seen[0].response.id
        last = seen[-1].sequence_number
        assert seen[0].response.status == "queued"
        rest = [e async for e in await sdk.responses.retrieve(name, stream=True, starting_after=last)]
        everything = [*seen, *rest]
        assert [event.sequence_number for event in everything] == list(range(len(everything)))
        assert everything[-1].type == "response.completed" and everything[-1].response.id == name
        text = "".join(event.delta for event in everything if event.type == "response.output_text.delta")
        made = await sdk.responses.retrieve(name)
        assert text == made.output_text == slow["say"] and made.status == "completed"
        again = [event async for event in await sdk.responses.retrieve(name, stream=True)]
        assert [event.to_dict() for event in again] == [event.to_dict() for event in everything]
        for event in again:
            shapes.fits_response_event(event.to_dict())
        assert served.metric("gateway_requests_total", operation="responses", outcome="ok") == 1
        assert served.metric("gateway_requests_total") == 1


async def test_a_stream_that_is_cancelled_ends(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        engine.set(rules=HELD)
        stream = await sdk.responses.create(**ASKED, stream=True)
        first: Any = await anext(aiter(stream))
        await statuses(sdk, first.response.id, "in_progress")
        await sdk.responses.cancel(first.response.id)
        events = [event async for event in stream]
        assert events[-1].type == "response.failed" and events[-1].response.status == "cancelled"
        await engine.closed(1)


async def test_what_cannot_be_in_the_background_is_said(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        for more, param in (({"store": False}, "store"), ({"background": "yes"}, "background")):
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.responses.create(**{**ASKED, **more})
            assert caught.value.param == param
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.create(**{**ASKED, "model": "nobody"})
        plain = await make(sdk, engine, "translated whole")
        whole = await ended(sdk, (await sdk.responses.create(**ASKED)).id)
        for name in (plain.id, whole.id):
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.responses.retrieve(name, stream=True)
            assert caught.value.param == "stream"
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve("resp_none", stream=True)
        answer = await served.get(
            f"{PATH}/{whole.id}?stream=true&starting_after=x", authorization=f"Bearer {ANN}"
        )
        assert (answer.status, answer.error["param"]) == (400, "starting_after")


async def test_a_key_has_so_many_at_once(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        limits = served.gateway.core.snapshot.config.server.limits
        object.__setattr__(limits, "background", 2)
        engine.set(rules=HELD)
        begun = [await sdk.responses.create(**ASKED) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.responses.create(**ASKED)
        assert caught.value.code == "too_many_background_responses"
        async with client(served, BOB) as bob:
            other = await bob.responses.create(**ASKED)
            await bob.responses.cancel(other.id)
        await sdk.responses.cancel(begun[0].id)
        more = await sdk.responses.create(**ASKED)
        assert more.status == "queued"
        for name in (begun[1].id, more.id):
            await sdk.responses.cancel(name)


async def changed(served: Served, **values: Any) -> None:
    """Change all rows, as another process would."""
    store = served.gateway.core.store
    assert store is not None
    await store.write(lambda connection: connection.execute(sa.update(background).values(**values)))


async def test_another_process_looks_follows_and_cancels(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data").symlink_to(tmp_path / "a" / "data")
    async with (
        keeping(tmp_path / "a", "translated") as (engine, one),
        keeping(tmp_path / "b", "translated") as (unasked, two),
        client(one) as first,
        client(two) as second,
    ):
        slow = {"say": " ".join(f"w{n}" for n in range(8)), "gap": 0.1}
        engine.set(rules=[slow])
        stream = await first.responses.create(**ASKED, stream=True)
        begun: Any = await anext(aiter(stream))
        name = begun.response.id
        followed = [event async for event in await second.responses.retrieve(name, stream=True)]
        seen = [begun, *[event async for event in stream]]
        assert [event.to_dict() for event in followed] == [event.to_dict() for event in seen]
        assert (await second.responses.retrieve(name)).output_text == slow["say"]
        for end in (second.responses.cancel, second.responses.delete):
            engine.set(rules=HELD)
            held = await first.responses.create(**ASKED)
            await statuses(second, held.id, "in_progress")
            await end(held.id)
            await until(lambda: not one.gateway.core.register.running, "the request has ended")
        assert one.metric("gateway_requests_total", outcome="cancelled") == 2
        assert not [asked for asked in unasked.requests if asked.method == "POST"]


async def test_what_was_made_by_a_process_that_is_gone_has_failed(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        engine.set(rules=HELD)
        begun = await sdk.responses.create(**ASKED, stream=True)
        first: Any = await anext(aiter(begun))
        name = first.response.id
        await statuses(sdk, name, "in_progress")
        part = served.gateway._background
        assert part is not None
        gone = dict(part._runs)
        part._runs.clear()  # as if it had never been here
        await changed(served, lease_until=int(time.time()) - 1)
        failed = await sdk.responses.retrieve(name)
        assert failed.status == "failed" and failed.error is not None
        assert "the gateway stopped while it made this response" in failed.error.message
        assert (await sdk.responses.cancel(name)).status == "failed"
        events = [event async for event in await sdk.responses.retrieve(name, stream=True)]
        assert [event.type for event in events[:2]] == ["response.created", "response.queued"]
        part._runs.update(gone)
        await begun.close()

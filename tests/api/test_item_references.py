"""Items of the input that stand for items of earlier answers, which the gateway has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from backends import registry
from backends.base import Operation, Request, RequestError
from backends.surfaces.codecs import settled
from tests.api.test_responses_kept import BOB, client, keeping, make, response, speak, stored

WAYS = ["native whole", "native stream", "translated whole", "translated stream"]


def reference(item: Any) -> dict[str, str]:
    return {"type": "item_reference", "id": item.id}


def told(said: dict[str, Any]) -> list[str]:
    """Return the texts that an engine was told, whichever API it was asked in."""
    found = []
    for message in said.get("messages") or said["input"]:
        content = message["content"]
        found.append(content if isinstance(content, str) else content[0]["text"])
    return found


@pytest.mark.parametrize("way", WAYS)
async def test_it_stands_for_what_was_answered(tmp_path: Path, way: str) -> None:
    async with keeping(tmp_path, way.split(maxsplit=1)[0]) as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, way)
        item = first.output[0]
        asked = [{"role": "user", "content": "hi"}, reference(item), {"role": "user", "content": "so"}]
        second = await make(sdk, engine, way, 2, input=asked)
        assert told(engine.requests[-1].json()) == ["hi", first.output_text, "so"]
        listed = await sdk.responses.input_items.list(second.id, order="asc")
        assert [each.type for each in listed.data] == ["message"] * 3 and listed.data[1].id == item.id
        # The item is part of the second response now, whatever becomes of the first.
        await sdk.responses.delete(first.id)
        third = await make(sdk, engine, way, 3, previous_response_id=second.id)
        assert told(engine.requests[-1].json())[:3] == ["hi", first.output_text, "so"] and third.output_text
        with pytest.raises(openai.NotFoundError):
            await make(sdk, engine, way, 4, input=asked)


async def test_what_is_continued_is_said_once(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        asked = [reference(first.output[0]), {"role": "user", "content": "so"}]
        await make(sdk, engine, "translated whole", input=asked, previous_response_id=first.id)
        assert told(engine.requests[-1].json()) == ["hi 1", first.output_text, "so"]


async def test_it_is_counted(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        asked: list[list[Any]] = [[], [reference(first.output[0])]]
        one, two = [
            await sdk.responses.input_tokens.count(
                model="public", input=[{"role": "user", "content": "so"}, *more]
            )
            for more in asked
        ]
        assert two.input_tokens > one.input_tokens > 0


async def test_an_item_that_is_not_there_is_404(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        loose = await make(sdk, engine, "translated whole", store=False)
        assert await stored(served) == [first.id]
        asked: list[Any] = [reference(first.output[0]), {"role": "user", "content": "so"}]
        async with client(served, BOB) as bob:
            with pytest.raises(openai.NotFoundError) as caught:
                await bob.responses.create(model="public", input=asked)
        assert f"Item with id '{first.output[0].id}' not found" in caught.value.message
        assert (caught.value.code, caught.value.param) == ("item_not_found", "input")
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.create(model="public", input=[reference(loose.output[0])])  # type: ignore[list-item]
        for odd in ({"type": "item_reference"}, {"type": "item_reference", "id": 5}):
            with pytest.raises(openai.BadRequestError) as refused:
                await sdk.responses.create(model="public", input=[odd])  # type: ignore[list-item]
            assert refused.value.param == "input.0"


async def test_what_is_referred_to_is_bounded(tmp_path: Path) -> None:
    async with keeping(tmp_path, "native") as (engine, served), client(served) as sdk:
        limits = served.gateway.core.snapshot.config.server.limits
        speak(engine, response("resp_1", "x" * limits.body), False)
        made = await sdk.responses.create(model="public", input="hi")
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.responses.create(model="public", input=[reference(made.output[0])])  # type: ignore[list-item]
        assert (caught.value.status_code, caught.value.param) == (413, "input")


@pytest.mark.parametrize(
    ("member", "value"),
    [("conversation", "conv_1"), ("prompt", {"id": "pmpt_1"})],
    ids=["conversation", "prompt"],
)
@pytest.mark.parametrize("engine_name", ["vllm", "llamacpp", "openai"])
def test_what_openais_service_keeps_is_there_only_where_that_may_answer(
    engine_name: str, member: str, value: Any
) -> None:
    engine = registry.create(engine_name)
    body = msgspec.json.encode({"model": "m", "input": "hi", member: value})
    request = Request(Operation.RESPONSES, body, "m")
    native = frozenset({Operation.CHAT, Operation.RESPONSES})
    if engine_name == "openai":
        assert settled(request, engine, native, None, lambda: 0) == (request, None)
        return
    with pytest.raises(RequestError) as caught:
        settled(request, engine, native, None, lambda: 0)
    assert caught.value.failure.param == member

"""Responses that are kept, over sockets: with engines that speak the API themselves, and with those that only chat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from gateway.api import kept as module
from gateway.fake.engine import FakeEngine
from gateway.store.tables import responses
from tests.api.asking import EVENTS, answering
from tests.faults.clients import until
from tests.serving import Answer, Served, serving

KEYS = 'keys: {ann: {value: "${env.ANN}"}, bob: {value: "${env.BOB}"}}\n'
ANN, BOB = "sk-of-ann", "sk-of-bob"
PATH = "/v1/responses"
NATIVE = ["native", "translated"]
KINDS = ["whole", "stream"]


def response(name: str, text: str, **more: Any) -> dict[str, Any]:
    """Return what an engine with the API answers."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    item = {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    counts = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    made = {"id": name, "object": "response", "created_at": 1, "status": "completed", "model": "private"}
    return {**made, "output": [item], "usage": counts, **more}


def events(told: dict[str, Any]) -> str:
    """Return the same as a stream."""
    begun = {**told, "status": "in_progress", "output": []}
    [item] = told["output"]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {**item["content"][0], "text": ""}
    listed: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": empty},
        {"type": "response.output_text.delta", **place, "delta": '"response.completed"', "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{told['status']}", "response": told},
    ]
    listed = [event | {"sequence_number": number} for number, event in enumerate(listed)]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in listed)


@contextlib.asynccontextmanager
async def keeping(
    folder: Path, native: str, more: str = "", keep: str = "30d"
) -> AsyncIterator[tuple[FakeEngine, Served]]:
    """Yield an engine and a gateway with a store before it."""
    able = "true" if native == "native" else "false"
    async with FakeEngine() as engine:
        text = (
            f"server: {{listen: '127.0.0.1:0', data: {{folder: {folder / 'data'}, keep: {keep}}}}}\n"
            f'backends: {{e: {{engine: openai, url: "{engine.url}", native: {{responses: {able}}}}}}}\n'
            f"models: {{public: {{targets: {{e: private}}}}, other: {{targets: {{e: private}}}}}}\n{KEYS}{more}"
        )
        async with serving(folder, text, {"ANN": ANN, "BOB": BOB}) as served:
            yield engine, served


def speak(engine: FakeEngine, told: dict[str, Any], stream: bool) -> None:
    """Have an engine with the API answer so."""
    rule = answering(PATH, events(told), EVENTS) if stream else answering(PATH, told)
    engine.set(rules=[rule])


def client(served: Served, key: str = ANN) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


async def make(sdk: openai.AsyncOpenAI, engine: FakeEngine, way: str, number: int = 1, **asked: Any) -> Any:
    """Make a response, whole or as a stream, and return it."""
    native, kind = way.split()
    if native == "native":
        speak(engine, response(f"resp_{number}", f"hello {number}"), kind == "stream")
    asked = {"model": "public", "input": f"hi {number}", **asked}
    if kind == "whole":
        return await sdk.responses.create(**asked)
    async with sdk.responses.stream(**asked) as stream:
        return await stream.get_final_response()


async def stored(served: Served) -> list[str]:
    """Return the ids of what is kept, once all is."""
    kept, store = served.gateway.core.kept, served.gateway.core.store
    assert kept is not None and store is not None
    await kept.close()
    return await store.read(lambda connection: list(connection.scalars(sa.select(responses.c.id))))


WAYS = [f"{native} {kind}" for native in NATIVE for kind in KINDS]


@pytest.mark.parametrize("way", WAYS)
async def test_a_response_is_retrieved_listed_and_deleted(tmp_path: Path, way: str) -> None:
    async with keeping(tmp_path, way.split(maxsplit=1)[0]) as (engine, served), client(served) as sdk:
        made = await make(sdk, engine, way)
        found = await sdk.responses.retrieve(made.id)
        assert (found.id, found.output_text, found.status, found.model) == (
            made.id,
            made.output_text,
            made.status,
            "public",
        )
        assert found.usage == made.usage and found.output_text
        [item] = (await sdk.responses.input_items.list(made.id)).data
        assert item.type == "message" and item.id.startswith("msg_")
        assert item.content[0].type == "input_text" and item.content[0].text == "hi 1"
        await sdk.responses.delete(made.id)
        for gone in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel):
            with pytest.raises(openai.NotFoundError) as caught:
                await gone(made.id)
            assert f"Response with id '{made.id}' not found." in caught.value.message
            assert caught.value.code == "response_not_found" and caught.value.param == "id"


@pytest.mark.parametrize("way", WAYS)
async def test_a_response_is_continued_whichever_engine_answers(tmp_path: Path, way: str) -> None:
    async with keeping(tmp_path, way.split(maxsplit=1)[0]) as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, way, instructions="be brief")
        second = await make(sdk, engine, way, 2, previous_response_id=first.id)
        assert second.previous_response_id == first.id
        third = await make(sdk, engine, way, 3, previous_response_id=second.id, instructions="be kind")
        said = engine.requests[-1].json()
        assert "previous_response_id" not in said
        if way.startswith("native"):
            assert said["instructions"] == "be kind"
            texts = [
                item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
                for item in said["input"]
            ]
        else:
            system, *messages = said["messages"]
            assert system == {"role": "system", "content": "be kind"}
            texts = [message["content"] for message in messages]
        assert texts == ["hi 1", first.output_text, "hi 2", second.output_text, "hi 3"]
        assert (await sdk.responses.retrieve(third.id)).previous_response_id == second.id
        listed = [item async for item in sdk.responses.input_items.list(third.id, limit=2, order="asc")]
        assert [item.to_dict()["content"][0]["text"] for item in listed] == texts  # type: ignore[index]
        assert len({item.id for item in listed}) == 5
        newest = await sdk.responses.input_items.list(third.id, limit=2)
        assert [item.id for item in newest.data] == [listed[4].id, listed[3].id] and newest.has_more
        after = await sdk.responses.input_items.list(third.id, after=listed[3].id, limit=100)
        assert [item.id for item in after.data] == [each.id for each in listed[2::-1]] and not after.has_more


async def test_an_incomplete_stream_is_kept_as_what_it_is(tmp_path: Path) -> None:
    async with keeping(tmp_path, "native") as (engine, served), client(served) as sdk:
        told = response(
            "resp_1", "hel", status="incomplete", incomplete_details={"reason": "max_output_tokens"}
        )
        speak(engine, told, True)
        async with sdk.responses.stream(model="public", input="hi") as stream:
            await stream.until_done()
        assert (await sdk.responses.retrieve("resp_1")).status == "incomplete"


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_to_be_kept_is_not(tmp_path: Path, kind: str) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        made = await make(sdk, engine, f"translated {kind}", store=False)
        assert made.output_text and await stored(served) == []
        kept = await make(sdk, engine, f"translated {kind}")
        assert await stored(served) == [kept.id]
        more = await make(sdk, engine, f"translated {kind}", store=False, previous_response_id=kept.id)
        assert more.previous_response_id == kept.id and await stored(served) == [kept.id]
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.responses.create(model="public", input="x", previous_response_id=more.id)
        assert (caught.value.code, caught.value.param) == (
            "previous_response_not_found",
            "previous_response_id",
        )
        assert f"Previous response with id '{more.id}' not found." in caught.value.message
        assert served.metric("gateway_requests_total", operation="responses", outcome="client_error") == 1


async def test_failed_answers_are_not_kept(tmp_path: Path) -> None:
    async with keeping(tmp_path, "native") as (engine, served):
        cut = events(response("resp_1", "hello")).rpartition("event:")[0]
        failed = {**response("resp_2", "x", status="failed"), "error": {"code": "x", "message": "y"}}
        for rule in (
            answering(PATH, cut, EVENTS),
            answering(PATH, events(failed), EVENTS),
            answering(PATH, {"error": {"message": "no"}}, status=400),
        ):
            engine.set(rules=[rule])
            asked = {"model": "public", "input": "hi", "stream": True}
            await served.post(PATH, asked, authorization=f"Bearer {ANN}")
        assert await stored(served) == []


async def test_a_response_is_there_for_its_own_key_alone(tmp_path: Path) -> None:
    async with (
        keeping(tmp_path, "translated") as (engine, served),
        client(served) as ann,
        client(served, BOB) as bob,
    ):
        made = await make(ann, engine, "translated whole")
        for ask in (
            bob.responses.retrieve,
            bob.responses.delete,
            bob.responses.cancel,
            bob.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await bob.responses.create(model="public", input="x", previous_response_id=made.id)
        assert (await ann.responses.retrieve(made.id)).id == made.id
        assert (await served.get(f"{PATH}/{made.id}")).status == 401


async def test_two_keys_may_have_the_same_id(tmp_path: Path) -> None:
    """Engines give the ids: two of them, or one after a restart, may give one twice."""
    async with (
        keeping(tmp_path, "native") as (engine, served),
        client(served) as ann,
        client(served, BOB) as bob,
    ):
        for number, sdk in enumerate((ann, bob, ann)):
            speak(engine, response("resp_1", f"for {number}"), False)
            await sdk.responses.create(model="public", input="hi")
        assert (await ann.responses.retrieve("resp_1")).output_text == "for 2"
        assert (await bob.responses.retrieve("resp_1")).output_text == "for 1"


async def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        made = await make(sdk, engine, "translated whole")
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            await sdk.responses.cancel(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await sdk.responses.retrieve(made.id, stream=True)
        assert caught.value.param == "stream"
        for query, param in (
            ("limit=0", "limit"),
            ("limit=x", "limit"),
            ("order=up", "order"),
            ("after=x", "after"),
        ):
            headers = {"authorization": f"Bearer {ANN}"}
            answer = await served.get(f"{PATH}/{made.id}/input_items?{query}", **headers)
            assert (answer.status, answer.error["param"]) == (400, param)
        answer = await served.get(PATH, authorization=f"Bearer {ANN}")
        assert answer.status == 405


async def test_without_a_store_requests_for_it_say_what_is_missing(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        text = f'backends: {{e: {{engine: openai, url: "{engine.url}", native: {{responses: false}}}}}}\n'
        async with serving(tmp_path, text + "models: {public: {targets: {e: private}}}\n") as served:
            asks: list[Callable[[], Any]] = [
                lambda: served.get(f"{PATH}/resp_1"),
                lambda: served.get(f"{PATH}/resp_1/input_items"),
                lambda: served.ask("DELETE", f"{PATH}/resp_1", None, {}),
                lambda: served.post(f"{PATH}/resp_1/cancel", b""),
            ]
            for ask in asks:
                answer: Answer = await ask()
                assert (answer.status, answer.error["code"]) == (400, "store_not_configured")
                assert "`server.data`" in answer.error["message"]
            made = await served.post(PATH, {"model": "public", "input": "x"})
            assert made.status == 200 and made.json()["output"]
            later = await served.post(PATH, {"model": "public", "input": "x", "background": True})
            assert (later.status, later.error["param"]) == (400, "background")
            assert "`server.data`" in later.error["message"]


async def test_a_conversation_is_bounded(tmp_path: Path) -> None:
    async with keeping(tmp_path, "native") as (engine, served), client(served) as sdk:
        limits = served.gateway.core.snapshot.config.server.limits
        speak(engine, response("resp_1", "x" * limits.body), False)
        made = await sdk.responses.create(model="public", input="hi")
        assert (await sdk.responses.retrieve(made.id)).output_text
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.responses.create(model="public", input="x", previous_response_id=made.id)
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_too_large_is_answered_and_not_kept(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LARGEST", 5_000)
    caplog.set_level(logging.WARNING, "gateway.store")
    async with keeping(tmp_path, "native") as (engine, served):
        told = response("resp_1", "x" * 6_000)
        speak(engine, told, kind == "stream")
        asked = {"model": "public", "input": "hi", "stream": kind == "stream"}
        answer = await served.post(PATH, asked, authorization=f"Bearer {ANN}")
        assert answer.status == 200 and answer.whole and b"x" * 6_000 in answer.body
        assert await stored(served) == []
    if kind == "stream":
        assert "responses are answered and not kept: it is too large" in caplog.text


async def test_a_store_that_fails_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.store")
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        assert await stored(served) == [first.id]
        store = served.gateway.core.store
        assert store is not None

        def full(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute("PRAGMA max_page_count=1")

        # The limit belongs to a connection, and the store may open more than one.
        store._engine.dispose()
        sa.event.listen(store._engine, "connect", full)
        for number in range(3):
            made = await make(sdk, engine, "translated whole", number, input="y" * 20_000)
            assert made.output_text
        assert await stored(served) == [first.id]
    assert caplog.text.count("responses are answered and not kept: its disk is full") == 1


async def test_nobody_waits_for_the_store_but_who_asks_for_what_is_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(tmp_path, "translated") as (engine, served), client(served) as sdk:
        store = served.gateway.core.store
        assert store is not None
        go, write = asyncio.Event(), store.write

        async def slowly(work: Any) -> Any:
            await go.wait()
            return await write(work)

        monkeypatch.setattr(store, "write", slowly)
        made = await asyncio.wait_for(make(sdk, engine, "translated whole"), 5)
        asking = asyncio.create_task(sdk.responses.retrieve(made.id))
        with pytest.raises(openai.NotFoundError):
            await asyncio.wait_for(sdk.responses.retrieve("resp_other"), 5)
        assert not asking.done()
        go.set()
        assert (await asyncio.wait_for(asking, 5)).id == made.id


async def test_old_conversations_are_deleted_as_a_whole(tmp_path: Path) -> None:
    async with keeping(tmp_path, "translated", keep="1d") as (engine, served), client(served) as sdk:
        first = await make(sdk, engine, "translated whole")
        lonely = await make(sdk, engine, "translated whole")
        await stored(served)
        store, kept = served.gateway.core.store, served.gateway.core.kept
        assert store is not None and kept is not None
        age = sa.update(responses).values(used=responses.c.used - 2 * 86400)
        await store.write(lambda connection: connection.execute(age).rowcount)
        last = await make(sdk, engine, "translated whole", previous_response_id=first.id)
        assert set(await stored(served)) == {first.id, lonely.id, last.id}
        assert await kept.clean() == 1
        assert set(await stored(served)) == {first.id, last.id}
        assert await kept.clean() == 0


async def test_an_answer_may_be_kept_and_compared_with_that_of_a_shadow(tmp_path: Path) -> None:
    more = "routes: [{name: r, to: {shadow: {of: public, to: other, sample: 100%}}}]\n"
    async with keeping(tmp_path, "translated", more) as (engine, served), client(served) as sdk:
        for kind in KINDS:
            made = await make(sdk, engine, f"translated {kind}")
            assert (await sdk.responses.retrieve(made.id)).output_text == made.output_text
        shadows = served.gateway.core.dispatcher.shadows
        await until(lambda: not shadows.running, "the copies are over")
        chats = [asked for asked in engine.requests if asked.path == "/v1/chat/completions"]
        assert len(chats) == 4

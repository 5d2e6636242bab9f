"""A start that a streamed chat waits for is shown as thoughts, in each client's own API, over real sockets and SDKs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from gateway.dispatch import loading
from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.serving import Answer, Served, serving

HI = [{"role": "user", "content": "hi"}]
AS_CHAT = {"x-gateway-translate": "always"}
FIRST = "The engine 'a' is being loaded.\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell progress often."""
    monkeypatch.setattr(loading, "INTERVAL", 0.2)


@asynccontextmanager
async def waiting(
    tmp_path: Path, setting: str = "show_loading: true", launch: str = "start: on_demand", server: str = ""
) -> AsyncIterator[tuple[Served, Toy]]:
    """Serve a model whose engine hangs in its start."""
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = f'server: {{listen: "127.0.0.1:0"{server}}}\nbackends:\n{toy.section(launch)}'
    text += f"models:\n  m: {{targets: {{a: a}}, {setting}}}\n"
    async with serving(tmp_path, text) as served:
        yield served, toy


async def load(toy: Toy) -> None:
    """Let the engine start, once some progress was told."""
    await until(lambda: toy.starts == 1, "it starts")
    await asyncio.sleep(0.9)
    toy.clear("hold")


def thoughts(said: str, model: str = "hm") -> None:
    """Check what was told of the start, and that the model's own thoughts follow."""
    lines = said.splitlines(keepends=True)
    assert lines[0] == FIRST
    assert len(lines) >= 4 and all(": loading\n" in line for line in lines[1:3])
    assert lines[-1].removesuffix(model) == "" or lines[-1].startswith("Ready after")
    assert any(line.startswith("Ready after ") for line in lines)
    assert said.endswith(model)


def chat(served: Served, **more: Any) -> asyncio.Task[Answer]:
    body = question("m") | {"messages": HI, "stream": True} | more
    return asyncio.create_task(served.post("/v1/chat/completions", body))


async def test_openais_client_sees_it_as_reasoning(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (served, toy):
        loaded = asyncio.create_task(load(toy))
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as asks:
            thought = ""
            async with asks.chat.completions.stream(model="m", messages=HI) as stream:  # type: ignore[arg-type]
                async for event in stream:
                    if event.type == "chunk" and event.chunk.choices:
                        delta = event.chunk.choices[0].delta
                        thought += getattr(delta, "reasoning_content", None) or ""
                        assert event.chunk.model == "m"
                found = await stream.get_final_completion()
        await loaded
        thoughts(thought)
        message = found.choices[0].message
        assert (
            message.role == "assistant"
            and message.content
            and message.content.isdigit()
            and found.choices[0].finish_reason == "stop"
        )
        # What is told of a start is no token, and no first one.
        assert served.metric("gateway_tokens_total", direction="out") == 2
        assert served.metric("gateway_hop_seconds_sum", hop="load") > 0.8
        assert served.metric("gateway_time_to_first_token_seconds_count") == 1


async def test_anthropics_client_sees_a_thinking_block_of_its_own(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (served, toy):
        loaded = asyncio.create_task(load(toy))
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0) as asks:
            async with asks.messages.stream(model="m", max_tokens=5, messages=HI) as stream:  # type: ignore[arg-type]
                found = await stream.get_final_message()
            await loaded
            told, model, said = found.content
            assert told.type == model.type == "thinking" and said.type == "text"
            thoughts(told.thinking + model.thinking)
            assert model.thinking == "hm" and said.text.isdigit()
            assert (told.signature, model.signature) == ("gateway-loading", "")
            assert found.stop_reason == "end_turn" and found.usage.output_tokens == 2
            again = [*HI, {"role": "assistant", "content": found.to_dict()["content"]}, *HI]
            await asks.messages.create(
                model="m",
                max_tokens=5,
                messages=again,  # type: ignore[arg-type]
                extra_headers=AS_CHAT,
            )
        assert not any("being loaded" in body for body in toy.bodies)
        assert any('"hm"' in body for body in toy.bodies)


async def test_it_is_an_item_of_a_streamed_response_and_not_of_the_one_that_is_kept(tmp_path: Path) -> None:
    data = f", data: {tmp_path / 'data'}"
    async with waiting(tmp_path, server=data) as (served, toy):
        loaded = asyncio.create_task(load(toy))
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as asks:
            async with asks.responses.stream(model="m", input="hi") as stream:
                numbers = [event.sequence_number async for event in stream]
                found = await stream.get_final_response()
            await loaded
            assert numbers == [*range(len(numbers))]
            told, model, said = found.output
            assert told.type == model.type == "reasoning" and said.type == "message"
            assert told.content and model.content
            thoughts(told.content[0].text + model.content[0].text)
            assert found.output_text.isdigit() and found.status == "completed"
            kept = await asks.responses.retrieve(found.id)
            assert [item.type for item in kept.output] == ["reasoning", "message"]
            assert kept.output_text == found.output_text
            await asks.responses.create(
                model="m", input="again", previous_response_id=found.id, extra_headers=AS_CHAT
            )
            items = [item.to_dict() for item in found.output]
            await asks.responses.create(model="m", input=[*items, *HI], store=False, extra_headers=AS_CHAT)  # type: ignore[list-item]
        assert not any("being loaded" in body for body in toy.bodies)


async def test_ollamas_client_sees_it_as_thinking(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (served, toy):
        loaded = asyncio.create_task(load(toy))
        client = ollama.AsyncClient(host=served.url)
        parts = [part async for part in await client.chat("m", HI, stream=True)]
        await client._client.aclose()
        await loaded
        thoughts("".join(part.message.thinking or "" for part in parts))
        assert "".join(part.message.content or "" for part in parts).isdigit()
        last = parts[-1]
        assert last.done and last.eval_count == 2 and last.done_reason == "stop"
        assert last.load_duration and last.load_duration > 0.8e9
        assert last.prompt_eval_duration is not None and last.prompt_eval_duration < last.load_duration
        assert last.total_duration is not None and last.total_duration > last.load_duration


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/messages", "/v1/responses", "/api/chat", "/v1/chat/completions"),
        "/v1beta/models/m:streamGenerateContent",
    ],
)
async def test_an_answer_that_comes_as_a_whole_follows_in_the_same_stream(tmp_path: Path, path: str) -> None:
    whole = [{"role": "user", "content": "whole"}]
    asked = {"model": "m", "messages": whole, "input": whole, "max_tokens": 5, "stream": True}
    asked |= {"contents": {"parts": {"text": "whole"}}}
    async with waiting(tmp_path) as (served, toy):
        answer = asyncio.create_task(served.post(path, asked))
        await load(toy)
        found = await answer
        assert found.whole and found.status == 200
        assert found.body.count(b"is being loaded.") >= 1
        assert found.body.count(b"message_start") == (2 if "messages" in path else 0)
        if path.startswith("/v1beta"):
            assert json.loads(found.body)[-1]["usageMetadata"], "one list, whoever has written its beginning"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/api/chat", "/v1/chat/completions"])
async def test_a_start_that_fails_is_told_in_the_stream_which_has_no_good_end(
    tmp_path: Path, path: str
) -> None:
    asked = {"model": "m", "messages": HI, "input": "hi", "max_tokens": 5, "stream": True}
    async with waiting(tmp_path) as (served, toy):
        toy.set("broken", "no space for the weights")
        answer = asyncio.create_task(served.post(path, asked))
        await load(toy)
        found = await answer
        # A failed response is a whole one of its API; nothing in the others says that a stream has failed and is over.
        assert (found.status, found.whole) == (200, path == "/v1/responses")
        assert b"is being loaded." in found.body and b"Ready after" not in found.body
        *_, last = [line for line in found.body.split(b"\n") if line.strip()]
        assert b"no space for the weights" in last
        for end in (b"message_stop", b"response.completed", b"[DONE]", b'"done":true'):
            assert end not in found.body
        if path == "/v1/responses":
            events = [json.loads(line[6:]) for line in found.body.split(b"\n") if line.startswith(b"data: ")]
            assert [event["sequence_number"] for event in events] == [*range(len(events))]
            assert (events[-1]["type"], events[-1]["response"]["id"]) == (
                "response.failed",
                events[0]["response"]["id"],
            )
        assert served.metric("gateway_requests_total") == 1
        assert served.metric("gateway_requests_total", outcome="ok") == 0


async def test_a_client_that_leaves_takes_the_start_with_it(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (served, toy):
        reader, writer = await served.connect()
        body = json.dumps({"model": "m", "messages": HI, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        await reader.readuntil(b"is being loaded.")
        writer.close()
        await until(lambda: not served.metric("gateway_engine_requests_waiting", backend="a"), "nobody waits")
        await until(
            lambda: served.metric("gateway_engine_stops_total", backend="a", reason="unwanted") == 1,
            "it stops",
        )
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        toy.clear("hold")


async def test_heartbeats_stop_while_it_is_shown_and_go_on_behind_it(tmp_path: Path) -> None:
    async with waiting(tmp_path, "show_loading: true, heartbeat: 100ms") as (served, toy):
        answer = chat(served, messages=[{"role": "user", "content": "slow"}])
        await load(toy)
        await until(lambda: toy.asked == ["slow"], "it is asked")
        await asyncio.sleep(0.5)
        toy.set("go")
        told, ready, rest = (await answer).body.partition(b"Ready after")
        assert ready and told.count(b": keep-alive") <= 2 and rest.count(b": keep-alive") >= 2
        blocks = told.split(b"\n\n")
        assert all(block.startswith(b"data: ") for block in blocks[1:])
        assert rest.rstrip().endswith(b"data: [DONE]")


async def test_how_long_the_last_start_took_is_told(tmp_path: Path) -> None:
    launch = "start: on_demand, idle: 300ms"
    async with waiting(tmp_path, launch=launch) as (served, toy):
        first = chat(served)
        await until(lambda: toy.starts == 1, "it starts")
        await asyncio.sleep(1.2)
        toy.clear("hold")
        assert (await first).status == 200
        await until(
            lambda: served.metric("gateway_engine_state", backend="a", state="stopped") == 1, "it stops"
        )
        toy.set("hold")
        second = chat(served)
        await until(lambda: toy.starts == 2, "it starts again")
        await asyncio.sleep(0.6)
        toy.clear("hold")
        assert b"is being loaded; its last start took " in (await second).body


async def test_a_wait_for_room_is_told_as_such(tmp_path: Path) -> None:
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    engines = "engines: {memory: {ram: 1536MiB}}"
    section = "start: on_demand, memory: {ram: 1GiB}"
    text = f'server: {{listen: "127.0.0.1:0", {engines}}}\nbackends:\n'
    text += one.section(section) + other.section(section)
    text += "models: {m: {targets: {a: a}, show_loading: true}, n: {targets: {b: b}}}\n"
    async with serving(tmp_path, text) as served:
        slow = question("n") | {"messages": [{"role": "user", "content": "slow"}]}
        busy = asyncio.create_task(served.post("/v1/chat/completions", slow))
        await until(lambda: other.asked == ["slow"], "b is busy")
        answer = chat(served)
        await asyncio.sleep(0.9)
        other.set("go")
        assert (await busy).status == 200
        body = (await answer).body
        assert b"The engine 'a' waits for room." in body and b": waiting for room" in body


@pytest.mark.parametrize(
    ("setting", "more", "path"),
    [
        ("show_loading: false", {"stream": True}, "/v1/chat/completions"),
        ("show_loading: true", {"stream": False}, "/v1/chat/completions"),
        ("show_loading: true", {"stream": True, "prompt": "hi"}, "/api/generate"),
    ],
)
async def test_nothing_is_told_to_who_did_not_ask_for_it(
    tmp_path: Path, setting: str, more: dict[str, Any], path: str
) -> None:
    async with waiting(tmp_path, setting) as (served, toy):
        toy.set("broken", "no space")
        answer = asyncio.create_task(served.post(path, {"model": "m", "messages": HI} | more))
        await load(toy)
        found = await answer
        assert found.status == 503 and b"being loaded" not in found.body


async def test_nothing_is_told_where_the_engine_is_ready_or_known_at_once_not_to_come(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (served, toy):
        toy.clear("hold")
        toy.set("broken", "no space")
        refused = await chat(served)
        assert refused.status in (200, 503)
        toy.clear("broken")
        assert (await chat(served)).status == 200
        ready = await chat(served)
        assert ready.whole and b"engine" not in ready.body


async def test_a_persona_has_it_of_its_model(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + toy.section()
    text += "models: {m: {targets: {a: a}, show_loading: true}, p: {from: m, system: Be brief.}}\n"
    async with serving(tmp_path, text) as served:
        answer = chat(served, model="p")
        await load(toy)
        assert FIRST.strip().encode() in (await answer).body

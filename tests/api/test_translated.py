"""Clients that speak another API than the engine, over real sockets: Anthropic's SDK in front of a chat engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.conformance import sdk
from tests.serving import Served, serving
from tests.surfaces import chatting

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
EVENTS = ["message_start", "content_block_start", *["content_block_delta"] * 5, "content_block_stop"]


@contextlib.asynccontextmanager
async def served(
    tmp_path: Path, engine: FakeEngine, native: str = "{messages: false}", more: str = ""
) -> AsyncIterator[Served]:
    text = f"""
backends:
  a: {{engine: openai, url: "{engine.url}", native: {native}}}
models:
  m: {{targets: {{a: fake}}}}
"""
    async with serving(tmp_path, text) as found:
        yield found


def client(found: Served) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=found.url, api_key="any", max_retries=0)


async def test_anthropics_client_gets_a_message(tmp_path: Path) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine) as found, client(found) as asks:
        message = await asks.messages.create(**ASKED)
        assert (
            message.content[0].type == "text" and message.content[0].text == "word0 word1 word2 word3 word4"
        )
        assert (message.stop_reason, message.model) == ("max_tokens", "m")
        assert message.usage.output_tokens == 5 and message.usage.input_tokens > 0
        assert engine.requests[-1].path == "/v1/chat/completions"
        assert found.metric("gateway_requests_total", operation="messages", outcome="ok") == 1
        assert found.metric("gateway_tokens_total", direction="out") == 5


async def test_anthropics_client_gets_a_stream(tmp_path: Path) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine) as found, client(found) as asks:
        async with asks.messages.stream(**ASKED) as stream:
            texts = [text async for text in stream.text_stream]
            message = await stream.get_final_message()
        assert "".join(texts) == "word0 word1 word2 word3 word4" and len(texts) == 5
        assert message.usage.output_tokens == 5 and message.stop_reason == "max_tokens"


async def test_a_silent_stream_has_pings(tmp_path: Path) -> None:
    text = """
backends: {{a: {{engine: openai, url: "{url}", native: {{messages: false}}}}}}
models: {{m: {{targets: {{a: fake}}, heartbeat: 20ms}}}}
"""
    async with (
        FakeEngine(defaults={"first_token": 0.4}) as engine,
        serving(tmp_path, text.format(url=engine.url)) as found,
    ):
        async with client(found) as asks, asks.messages.stream(**ASKED) as stream:
            message = await stream.get_final_message()
            assert message.stop_reason == "max_tokens"
        engine.set(defaults={"first_token": 60})
        reader, writer = await found.connect()
        sent = json.dumps(ASKED | {"stream": True}).encode()
        head = "POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        try:
            async with asyncio.timeout(30):
                beats = await reader.readuntil(b"data: ") + await reader.readuntil(b"\n\n")
        finally:
            writer.close()
        assert beats.endswith(b': keep-alive\nevent: ping\ndata: {"type":"ping"}\n\n')


SILENT = chatting.stream([chatting.chunk({"content": "a"}), chatting.chunk({}, "stop")], done=False)


async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as an engine that says all of its answer but neither its counts nor that it is over."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            writer.write(head + b"%x\r\n%b\r\n" % (len(SILENT), SILENT))
            await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v1/messages", ASKED, b'data: {"type":"message_stop"}\n\n'),
        ("/v1/responses", {"model": "m", "input": "hi"}, b"}\n\n"),
        ("/api/chat", {"model": "m", "messages": ASKED["messages"]}, b"}\n"),
    ],
)
async def test_counts_that_never_come_are_not_waited_for_without_end(
    path: str, body: dict[str, Any], end: bytes, tmp_path: Path
) -> None:
    server = await asyncio.start_server(falls_silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    text = f"""
backends: {{a: {{engine: openai, url: "{url}", models: [fake], native: {{messages: false, responses: false}}}}}}
models: {{m: {{targets: {{a: fake}}, timeouts: {{idle: 200ms}}}}}}
"""
    async with server, serving(tmp_path, text) as found:
        answer = await found.post(path, body | {"stream": True})
        assert answer.status == 200 and answer.whole and answer.body.endswith(end)
        assert b'"output_tokens":1' in answer.body or b'"eval_count":1' in answer.body
        assert b"error" not in answer.body.replace(b'"error":null', b"")


async def test_a_stream_that_breaks_off_raises_in_anthropics_client(tmp_path: Path) -> None:
    script = {"faults": [{"at": "event 3", "do": "reset"}]}
    async with FakeEngine(defaults=script) as engine, served(tmp_path, engine) as found:
        answer = await found.post("/v1/messages", ASKED | {"stream": True})
        kinds = [
            line.removeprefix("event: ")
            for line in answer.body.decode().split("\n")
            if line.startswith("event: ")
        ]
        assert kinds[0] == "message_start" and kinds[-1] == "error" and "message_stop" not in kinds
        told = json.loads(answer.body.rstrip(b"\n").rpartition(b"data: ")[2])
        assert told["request_id"] == answer.headers["request-id"] and told["error"]["message"]
        async with client(found) as asks:
            with pytest.raises(anthropic.APIError):
                async with asks.messages.stream(**ASKED) as stream:
                    await stream.get_final_message()


async def test_an_engine_without_room_is_529(tmp_path: Path) -> None:
    async with (
        FakeEngine(rules=[answering("/v1/chat/completions", {}, status=503)]) as engine,
        served(tmp_path, engine) as found,
    ):
        answer = await found.post("/v1/messages", ASKED)
        assert (answer.status, answer.json()["error"]["type"]) == (529, "overloaded_error")
        assert (await found.post("/v1/chat/completions", ASKED)).status == 503


async def test_a_mistake_is_told_in_anthropics_words(tmp_path: Path) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine) as found, client(found) as asks:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await asks.messages.create(
                **ASKED | {"messages": [{"role": "user", "content": [{"type": "image"}]}]}
            )
        assert "messages.0.content.0.source" in str(caught.value)
        assert not [one for one in engine.requests if one.method == "POST"]
        assert found.gateway.pool.backends["a"].breaker.open is False


async def test_a_reload_changes_what_is_translated(tmp_path: Path) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine) as found:
        before = found.gateway.core.snapshot.config
        native = before.backends["a"].model_copy(update={"native": {}})
        found.gateway.apply(before.model_copy(update={"backends": {"a": native}}))
        await found.post("/v1/messages", ASKED)
        assert "/v1/messages" in {one.path for one in engine.requests}


async def test_what_was_not_said_is_named(tmp_path: Path) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    async with FakeEngine() as engine, served(tmp_path, engine) as found:
        answer = await found.post("/v1/messages", ASKED | {"tools": [search]})
        assert answer.headers["x-gateway-dropped"] == "web_search_20250305"


@pytest.mark.parametrize(
    ("native", "headers", "path"),
    [
        ("{}", {}, "/v1/messages"),
        ("{messages: true}", {}, "/v1/messages"),
        ("{messages: false}", {}, "/v1/chat/completions"),
        ("{}", {"x_gateway_translate": "always"}, "/v1/chat/completions"),
    ],
)
async def test_when_a_message_is_translated(
    native: str, headers: dict[str, str], path: str, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine, native) as found:
        await found.post("/v1/messages", ASKED, **headers)
        assert {one.path for one in engine.requests if one.method == "POST"} == {path}


TOOL = {"name": "get", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, "/v1/messages"),
        ({"tools": []}, "/v1/messages"),
        ({"tools": None}, "/v1/messages"),
        ({"tools": [TOOL]}, "/v1/chat/completions"),
    ],
)
async def test_only_requests_with_tools_are_translated(
    more: dict[str, Any], path: str, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine, "{messages: {tools: false}}") as found:
        await found.post("/v1/messages", ASKED | more)
        assert {one.path for one in engine.requests if one.method == "POST"} == {path}


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("0.10.9", "/v1/chat/completions"),
        ("0.11.0rc1", "/v1/messages"),
        ("0.11", "/v1/messages"),
        ("1.2.3+cu128", "/v1/messages"),
        ("none", "/v1/chat/completions"),
        (None, "/v1/chat/completions"),
    ],
)
async def test_an_engine_is_asked_as_it_is_from_a_version_on(
    version: str | None, path: str, tmp_path: Path
) -> None:
    told = answering("/version", {"version": version}) if version else answering("/version", {}, status=404)
    async with FakeEngine(rules=[told]) as engine:
        text = f"""
backends:
  a: {{engine: vllm, url: "{engine.url}", native: {{messages: {{since: "0.11.0"}}}}}}
models:
  m: {{targets: {{a: fake}}}}
"""
        async with serving(tmp_path, text) as found:
            await found.post("/v1/messages", ASKED)
            assert {one.path for one in engine.requests if one.method == "POST"} == {path}


async def test_a_tool_that_the_engine_would_refuse_is_left_out_where_bytes_pass_else(tmp_path: Path) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    async with FakeEngine() as engine:
        text = f'backends: {{a: {{engine: vllm, url: "{engine.url}"}}}}\nmodels: {{m: {{targets: {{a: fake}}}}}}\n'
        async with serving(tmp_path, text) as found:
            answer = await found.post("/v1/messages", ASKED | {"tools": [search, TOOL]})
            assert (answer.status, answer.headers["x-gateway-dropped"]) == (200, "web_search_20250305")
            asked = engine.requests[-1]
            assert asked.path == "/v1/chat/completions" and len(asked.json()["tools"]) == 1
            forced = {"tools": [search, TOOL], "tool_choice": {"type": "tool", "name": "web_search"}}
            answer = await found.post("/v1/messages", ASKED | forced)
            assert (answer.status, answer.error["param"]) == (400, "tool_choice.name")
            await found.post("/v1/messages", ASKED | {"tools": [TOOL]})
            assert engine.requests[-1].path == "/v1/messages"


async def test_nobody_asks_for_a_version_that_does_not_matter(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        text = f'backends: {{a: {{engine: vllm, url: "{engine.url}"}}}}\nmodels: {{m: {{targets: {{a: fake}}}}}}\n'
        async with serving(tmp_path, text) as found:
            await found.post("/v1/messages", ASKED)
            assert "/version" not in {one.path for one in engine.requests}


async def test_a_whole_answer_of_an_engine_that_only_streams(tmp_path: Path) -> None:
    """What is gathered from a stream is translated as a whole."""
    text = (
        'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    rule = answering("/v1/chat/completions", text, "text/event-stream")
    async with FakeEngine(rules=[rule]) as engine, served(tmp_path, engine) as found:
        answer = await found.post("/v1/messages", ASKED)
        assert answer.json()["content"] == [{"type": "text", "text": "hi"}]


@pytest.mark.parametrize("native", ["{responses: false}", "{}"])
async def test_a_response_that_breaks_off_has_failed_and_says_why(native: str, tmp_path: Path) -> None:
    """As OpenAI tells it; Codex takes the reason from there."""
    if native == "{}":
        response = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress"}
        begun: list[dict[str, Any]] = [
            {"type": "response.created", "response": response},
            {"type": "response.output_text.delta", "item_id": "i", "delta": "a"},
        ]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in begun)
        rules = [answering("/v1/responses", body, "text/event-stream")]
        engine = FakeEngine(rules=rules)
    else:
        engine = FakeEngine(defaults={"faults": [{"at": "event 3", "do": "reset"}]})
    async with engine, served(tmp_path, engine, native) as found:
        answer = await found.post("/v1/responses", {"model": "m", "input": "hi", "stream": True})
        assert answer.status == 200 and answer.whole
        events = chatting.events(answer.body)
        for number, event in enumerate(events):
            sdk.fits_response_event(event)
            assert event["sequence_number"] == number
        *_, error, last = events
        assert (error["type"], last["type"]) == ("error", "response.failed")
        response = last["response"]
        assert (response["status"], response["model"]) == ("failed", "m")
        assert response["id"] == events[0]["response"]["id"]
        assert response["error"] == {"code": "server_error", "message": error["message"]}
        async with openai.AsyncOpenAI(base_url=f"{found.url}/v1", api_key="any", max_retries=0) as asks:
            with pytest.raises((openai.APIError, RuntimeError, httpx.HTTPError)):
                async with asks.responses.stream(model="m", input="hi") as stream:
                    await stream.get_final_response()

"""The operations beside chat, over real sockets.

They are asked for where clients look for them, answered under the public name, streamed event by event, and broken off
in their API's own words.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Fault, Http
from tests.api.asking import (
    ASKED,
    EVENTS,
    FORM,
    SPEECH,
    STREAMS,
    TRANSCRIPTIONS,
    WAV,
    answered,
    answering,
    config,
    event,
    form,
    public,
    streaming,
)
from tests.serving import Served, serving

PLACES = [(operation, path) for operation, asked in ASKED.items() for path in asked.paths]
CHUNKED = Http(framing="chunked")
ENDED = ("responses",)
"""The operations whose streams have an end of their own for what has failed."""


def counted(served: Served, operation: str, outcome: str) -> bool:
    """Exactly one request was counted, with this outcome."""
    name = "gateway_requests_total"
    return served.metric(name) == served.metric(name, operation=operation, outcome=outcome) == 1


@pytest.mark.parametrize(("operation", "path"), PLACES)
async def test_an_operation_is_asked_for_and_answered(operation: str, path: str, tmp_path: Path) -> None:
    (place, *_), asks, says = ASKED[operation]
    async with answered(tmp_path, answering(place, {"model": "private", **says})) as (engine, served):
        answer = await served.post(path, {"model": "public", **asks})
        assert (answer.status, answer.json()) == (200, {"model": "public", **says})
        assert answer.headers["content-type"] == "application/json"
        assert counted(served, operation, "ok")
        (asked,) = [exchange for exchange in engine.requests if exchange.method == "POST"]
        assert (asked.path, asked.json()) == (place, {"model": "private", **asks})


@pytest.mark.parametrize("operation", STREAMS)
@pytest.mark.parametrize("split", [0, 1, 50])
async def test_a_stream_keeps_its_events(operation: str, split: int, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    said = "".join(STREAMS[operation])
    rule = answering(path, ": hello\n\n" + said, EVENTS, http=Http(framing="chunked", split=split))
    async with answered(tmp_path, rule) as (engine, served):
        answer = await served.post(path, asks)
        assert (answer.status, answer.whole) == (200, True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.body.decode() == public(said)
        assert counted(served, operation, "ok")
        assert served.metric("gateway_tokens_total", direction="in") == 9
        assert served.metric("gateway_tokens_total", direction="out") == 2
        assert engine.requests[-1].json() == asks | {"model": "private"}


def last_words(operation: str, message: str) -> tuple[list[str], dict[str, Any]]:
    """Return the lines before the data of the event that ends a broken stream, and its data, in the API's own shape."""
    facts = {"message": message, "type": "upstream_error", "param": None, "code": "upstream_error"}
    if operation == "responses":
        return ["event: error"], {
            "type": "error",
            "code": "upstream_error",
            "message": message,
            "param": None,
            "sequence_number": 2,
        }
    if operation == "messages":
        error = {"type": "api_error", "message": message}
        return ["event: error"], {"type": "error", "error": error, "request_id": "r-1"}
    return [], {"error": facts}


def pause(begin: str) -> Fault:
    """So that what follows is not read together with the beginning, when another backend could still take over."""
    return Fault(at=f"body byte {len(begin)}", do="hang", duration=0.05)


@pytest.mark.parametrize("operation", STREAMS)
async def test_an_error_in_a_stream_is_told_in_its_apis_words(operation: str, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    begin = STREAMS[operation].begin
    error = event("error", error={"message": "CUDA error at 10.0.0.1", "type": "api_error"})
    rule = answering(path, begin + error, EVENTS, http=CHUNKED, faults=[pause(begin)])
    async with answered(tmp_path, rule) as (_, served):
        answer = await served.post(path, asks, x_request_id="r-1")
        assert answer.status == 200 and answer.whole == (operation in ENDED)
        assert answer.body.decode().startswith(public(begin))
        said = answer.body.decode().removeprefix(public(begin)).partition("\n\n")[0]
        *lines, data = said.split("\n")
        wanted = last_words(
            operation, "the engine reported an internal error (model 'public' at backend 'e0')"
        )
        assert (lines, json.loads(data.removeprefix("data: "))) == wanted
        assert counted(served, operation, "upstream_error")


@pytest.mark.parametrize("operation", STREAMS)
@pytest.mark.parametrize("how", ["the body ends", "the connection ends", "[DONE] comes"])
async def test_a_stream_without_its_last_event_is_broken(operation: str, how: str, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    said = STREAMS[operation].begin + ("data: [DONE]\n\n" if how == "[DONE] comes" else "")
    faults = [pause(STREAMS[operation].begin)]
    if how == "the connection ends":
        faults.append(Fault(at=f"body byte {len(said)}", do="close"))
    rule = answering(path, said + " ", EVENTS, http=CHUNKED, faults=faults)
    async with answered(tmp_path, rule) as (_engine, served):
        answer = await served.post(path, asks)
        assert answer.status == 200 and answer.whole == (operation in ENDED)
        assert answer.body.decode().startswith(public(STREAMS[operation].begin))
        assert b"[DONE]" not in answer.body and b"rror" in answer.body
        assert counted(served, operation, "upstream_error")


@pytest.mark.parametrize("operation", STREAMS)
async def test_before_its_first_content_another_backend_takes_over(operation: str, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    broken = answering(path, 'data: {"error":{"message":"out of memory"}}\n\n', EVENTS)
    whole = answering(path, "".join(STREAMS[operation]), EVENTS)
    async with FakeEngine(rules=[broken]) as first, FakeEngine(rules=[whole]) as second:
        text = config(first, second).replace("e1: private", "e1: {model: private, weight: 1}")
        async with serving(tmp_path, text) as served:
            answers = [await served.post(path, asks) for _ in range(4)]
            assert {answer.body.decode() for answer in answers} == {public("".join(STREAMS[operation]))}
            assert {answer.headers["x-gateway-backend"] for answer in answers} == {"e1"}


@pytest.mark.parametrize("operation", [*ASKED])
async def test_an_error_before_an_answer_has_one_shape(operation: str, tmp_path: Path) -> None:
    (path, *_), asks, _ = ASKED[operation]
    error = {"error": {"message": "no such thing", "type": "invalid_request_error", "param": "x"}}
    async with answered(tmp_path, answering(path, error, status=400)) as (_engine, served):
        answer = await served.post(path, {"model": "public", **asks})
        assert (answer.status, answer.error["message"], answer.error["param"]) == (
            400,
            "no such thing",
            "x",
        )
        assert counted(served, operation, "client_error")


@pytest.mark.parametrize("operation", STREAMS)
async def test_an_engine_that_does_not_stream_is_no_success(operation: str, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    async with answered(tmp_path, answering(path, {"model": "private", **ASKED[operation].says})) as (
        _engine,
        served,
    ):
        answer = await served.post(path, asks)
        assert (answer.status, answer.error["code"]) == (502, "upstream_protocol_error")


@pytest.mark.parametrize("operation", STREAMS)
async def test_the_engine_stops_when_the_client_leaves(operation: str, tmp_path: Path) -> None:
    path, asks = streaming(operation)
    begin = STREAMS[operation].begin
    hang = Fault(at=f"body byte {len(begin)}", do="hang")
    rule = answering(path, begin + " ", EVENTS, http=CHUNKED, faults=[hang])
    async with answered(tmp_path, rule) as (engine, served):
        reader, writer = await served.connect()
        data = json.dumps(asks).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\n\n")
        writer.close()
        (gone,) = await engine.closed(1)
        assert gone.path == path


# Sound


async def test_sound_passes_piece_by_piece(tmp_path: Path) -> None:
    sound = bytes(range(256)) * 8
    rule = answering(SPEECH, sound, "audio/mpeg", http=Http(framing="chunked", split=500))
    async with answered(tmp_path, rule) as (engine, served):
        answer = await served.post(SPEECH, {"model": "public", "input": "hi", "voice": "x"})
        assert (answer.status, answer.body, answer.whole) == (200, sound, True)
        assert answer.headers["content-type"] == "audio/mpeg"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["x-gateway-backend"] == "e0"
        assert served.metric("gateway_tokens_total", direction="out") == 0
        assert counted(served, "speech", "ok")
        assert engine.requests[-1].json() == {"model": "private", "input": "hi", "voice": "x"}


async def test_sound_that_breaks_off_has_no_end_and_no_words_in_it(tmp_path: Path) -> None:
    sound = bytes(range(256)) * 8
    cut = Fault(at="body byte 1024", do="close")
    async with answered(tmp_path, answering(SPEECH, sound, "audio/mpeg", http=CHUNKED, faults=[cut])) as (
        _engine,
        served,
    ):
        answer = await served.post(SPEECH, {"model": "public", "input": "hi"})
        assert (answer.status, answer.body, answer.whole) == (200, sound[:1024], False)
        assert counted(served, "speech", "upstream_error")


async def test_sound_as_events(tmp_path: Path) -> None:
    said = event("speech.audio.delta", audio="AA==") + event("speech.audio.done")
    async with answered(tmp_path, answering(SPEECH, said, EVENTS)) as (_engine, served):
        answer = await served.post(SPEECH, {"model": "public", "input": "hi", "stream_format": "sse"})
        assert (answer.status, answer.body.decode()) == (200, said)
        wrong = await served.post(SPEECH, {"model": "public", "input": "hi", "stream_format": "x"})
        assert (wrong.status, wrong.error["param"]) == (400, "stream_format")


async def test_sound_without_a_type_of_its_own_and_none_at_all(tmp_path: Path) -> None:
    rules = [answering(SPEECH, b"\xff\xf3", "application/octet-stream")]
    async with FakeEngine(rules=rules) as engine, FakeEngine() as silent:
        async with serving(tmp_path, config(engine)) as served:
            answer = await served.post(SPEECH, {"model": "public", "input": "hi"})
            assert (answer.body, answer.headers["content-type"]) == (b"\xff\xf3", "application/octet-stream")
        silent.set(rules=[answering(SPEECH, b"", "audio/mpeg")])
        async with serving(tmp_path, config(silent)) as served:
            answer = await served.post(SPEECH, {"model": "public", "input": "hi"})
            assert (answer.status, answer.error["code"]) == (502, "upstream_protocol_error")


# Recordings


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/v1/audio/translations"])
@pytest.mark.parametrize("name", ["public", "private"])
async def test_a_form_is_passed_on_under_the_backends_name(path: str, name: str, tmp_path: Path) -> None:
    sent = form(("model", name), ("file", WAV), ("language", "en"))
    async with FakeEngine(rules=[answering(path, {"text": "hello"})]) as engine:
        async with serving(tmp_path, config(engine).replace("public", name)) as served:
            answer = await served.post(path, sent, content_type=FORM)
            assert (answer.status, answer.json()) == (200, {"text": "hello"})
        asked = engine.requests[-1]
        assert asked.headers["content-type"] == FORM
        assert asked.body == sent.replace(b"public", b"private")


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/vtt"])
async def test_a_transcription_as_text(kind: str, tmp_path: Path) -> None:
    async with answered(tmp_path, answering(TRANSCRIPTIONS, "WEBVTT\n", kind)) as (_engine, served):
        sent = form(("model", "public"), ("file", WAV), ("response_format", "vtt"))
        answer = await served.post(TRANSCRIPTIONS, sent, content_type=FORM)
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, kind, b"WEBVTT\n")


@pytest.mark.parametrize("engine_streams", [True, False])
async def test_a_transcription_is_streamed(engine_streams: bool, tmp_path: Path) -> None:
    said = 'data: {"type":"transcript.text.delta","delta":"H"}\n\ndata: {"type":"transcript.text.done","text":"H"}\n\n'
    rule = answering(TRANSCRIPTIONS, *((said, EVENTS) if engine_streams else ({"text": "H"},)))
    async with answered(tmp_path, rule) as (_engine, served):
        sent = form(("file", WAV), ("stream", "True"), ("model", "public"))
        answer = await served.post(TRANSCRIPTIONS, sent, content_type=FORM)
        assert (answer.status, answer.body.decode()) == (200, said)
        assert answer.headers["content-type"].startswith(EVENTS)


# Whole answers out of streams


@pytest.mark.parametrize("operation", ["responses", "messages", "infill"])
async def test_a_stream_nobody_asked_for_becomes_a_whole_answer(operation: str, tmp_path: Path) -> None:
    """llama.cpp is always asked for a stream, because only then it notices who leaves."""
    path, asks = streaming(operation)
    del asks["stream"]
    rule = answering(path, "".join(STREAMS[operation]), EVENTS, http=CHUNKED)
    async with FakeEngine(rules=[rule]) as engine:
        async with serving(tmp_path, config(engine, kinds=("llamacpp",))) as served:
            answer = await served.post(path, asks)
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json()["model"] == "public"
            assert counted(served, operation, "ok")
            engine.set(rules=[answering(path, STREAMS[operation].begin, EVENTS, http=CHUNKED)])
            broken = await served.post(path, asks)
            assert (broken.status, broken.error["code"]) == (502, "upstream_reset")
        assert {exchange.json()["stream"] for exchange in engine.requests if exchange.method == "POST"} == {
            True
        }

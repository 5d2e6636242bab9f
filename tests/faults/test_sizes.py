"""How large an engine's answer may be: sound ones pass, and a limit of the gateway's own is no verdict on an engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.peers import scripted
from tests.faults.support import CONFIG, HEALTHY, asked, stage, text_of
from tests.serving import serving

SMALL = CONFIG.replace("event: 1MiB", "event: 100KiB, reply: 300KiB")
LARGE = CONFIG.replace(", limits: {{event: 1MiB}}", "")
EVENTS = {"content-type": "text/event-stream"}
END = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def said(**delta: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def body(*events: Any) -> dict[str, Any]:
    """Return a behaviour that streams these events."""
    return {"sse": {"events": [*map(json.dumps, events), "[DONE]"]}}


FIRST: dict[str, list[Any]] = {
    "images": [said(images=[{"image_url": {"url": "data:image/png;base64," + "A" * 900_000}}])],
    "sound": [said(audio={"data": "A" * 400_000})],
    "a tool call": [said(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "x" * 600_000}}])],
    "the prompt's tokens": [
        {**said(role="assistant"), "prompt_token_ids": [10_000] * 60_000},
        said(content="a"),
    ],
    "roles without end": [said(role="assistant")] * 4000 + [said(content="a")],
    "a long text": [said(content="a" * 3_000_000)],
}


@pytest.mark.parametrize("events", FIRST.values(), ids=FIRST.keys())
async def test_a_sound_first_event_passes_however_large(events: list[Any], tmp_path: Path) -> None:
    async with stage(tmp_path, config=LARGE) as at:
        at.misbehave(**body(*events, END))
        answer = await at.ask("alone", stream=True)
        assert (answer.status, answer.whole) == (200, True)
        assert answer.events == [*({**event, "model": "alone"} for event in [*events, END]), "[DONE]"]
        assert at.attempts(result="ok") == 1


LIMITS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "a whole answer": ({"say": "word " * 80_000}, False, "server.limits.reply"),
    "a stream as a whole": ({"tokens": 3000, "say": None}, True, "server.limits.reply"),
    "an event": (body(said(content="a" * 110_000), END), True, "server.limits.event"),
    "what comes before the first content": (
        body(*[said(role="assistant")] * 2000),
        True,
        "server.limits.event",
    ),
}


@pytest.mark.parametrize(("behaviour", "stream", "key"), LIMITS.values(), ids=LIMITS.keys())
async def test_a_limit_of_the_gateway_is_told_and_held_against_nobody(
    behaviour: dict[str, Any], stream: bool, key: str, tmp_path: Path
) -> None:
    async with stage(tmp_path, config=SMALL) as at:
        at.misbehave(**behaviour)
        for _ in range(3):
            answer = await at.ask("pair", stream=stream)
            if answer.headers.get("x-gateway-backend") == "healthy":
                continue
            error = answer.events[-1]["error"] if answer.status == 200 else answer.error
            assert (error["code"], answer.status in (200, 502)) == ("answer_too_large", True)
            assert key in error["message"]
            assert answer.status == 200 or answer.headers["x-should-retry"] == "false"
            assert not (answer.status == 200 and answer.whole)
        assert at.attempts(result="limit") == at.attempts() > 0
        assert len(asked(at.healthy, "pair")) + at.attempts() == 3
        assert not at.backend().breaker.open


async def test_what_fits_is_an_answer(tmp_path: Path) -> None:
    async with stage(tmp_path, config=SMALL) as at:
        at.misbehave(say="word " * 40_000)
        answer = await at.ask("alone")
        assert (answer.status, len(text_of(answer))) == (200, 200_000)


async def test_an_error_that_is_too_long_is_judged_by_its_status(tmp_path: Path) -> None:
    """An engine may repeat the whole request in its refusal."""
    long = json.dumps({"error": {"message": "no such parameter", "input": "x" * (3 << 20)}})
    async with stage(tmp_path) as at:
        for _ in range(3):
            at.misbehave(reply={"status": 400, "body": long})
            answer = await at.ask("alone")
            assert (answer.status, answer.error["code"]) == (400, "invalid_value")
            assert len(answer.body) < 2000
        at.misbehave(reply={"status": 429, "body": long})
        assert (await at.ask("pair")).status == 200
        assert not at.backend().breaker.open


PIECE = b"x" * 8192
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_bytes_of_an_event_under_way_are_progress(tmp_path: Path) -> None:
    """An event of 300 KB in pieces of 8 KB takes longer than the first token may, and than a silence."""
    chunk = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
    begin, end = chunk.split(b"%b")

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for _ in range(2):
            writer.write(framed(begin))
            for _ in range(38):
                await asyncio.sleep(0.02)
                writer.write(framed(PIECE))
            writer.write(framed(end))
        writer.write(framed(b"data: " + json.dumps(END).encode() + b"\n\n") + b"0\r\n\r\n")

    async with (
        scripted(answer) as url,
        stage(tmp_path, url=url, clocks="first_token: 400ms, first_byte: 400ms, idle: 400ms") as at,
    ):
        answered = await at.ask("alone", stream=True)
        assert (answered.status, answered.whole) == (200, True)
        assert text_of(answered) == "x" * 8192 * 38 * 2


MISLABELLED = [
    "text/plain; charset=utf-8",
    "application/json",
    "application/octet-stream",
    "Text/Event-Stream",
    "",
]


@pytest.mark.parametrize("kind", MISLABELLED)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("split", [0, 1])
async def test_a_stream_is_one_whatever_it_is_called(
    kind: str, stream: bool, split: int, tmp_path: Path
) -> None:
    text = (
        "".join(f"data: {json.dumps(event)}\n\n" for event in (said(content="hello"), END))
        + "data: [DONE]\n\n"
    )
    headers = {"content-type": kind} if kind else {}
    async with stage(tmp_path) as at:
        at.misbehave(reply={"body": ": hi\n\n" + text, "headers": headers}, http={"split": split})
        answer = await at.ask("alone", stream=stream)
        assert (answer.status, answer.whole, text_of(answer)) == (200, True, "hello")
        if stream:
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
async def test_an_answer_that_is_no_stream_stays_what_it_is(kind: str, tmp_path: Path) -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "data: x"}, "finish_reason": "stop"}]}
    async with stage(tmp_path) as at:
        headers = {"content-type": kind} if kind else {}
        at.misbehave(reply={"body": json.dumps(whole), "headers": headers}, http={"split": 1})
        assert text_of(await at.ask("alone")) == "data: x"
        at.misbehave(reply={"body": "dates: none", "headers": headers}, http={"split": 1})
        assert (await at.ask("alone")).error["code"] == "upstream_protocol_error"


async def test_progress_of_an_engine_passes_at_once(tmp_path: Path) -> None:
    """The first token may come later than its limit, as long as the engine tells how far it is."""
    told = [{**said(), "prompt_progress": {"total": 100, "processed": part}} for part in range(0, 100, 10)]
    async with stage(tmp_path, clocks="first_token: 300ms, idle: 300ms") as at:
        at.misbehave(**body(*told, said(content="a"), END), gap=0.1)
        answer = await at.ask("alone", stream=True)
        assert (answer.status, answer.whole, text_of(answer)) == (200, True, "a")


async def test_two_choices_are_two(tmp_path: Path) -> None:
    """A stream with one of the two that were asked for has no clean end, however it ends."""
    async with FakeEngine(models=["m"]) as engine:
        text = f'backends: {{e: {{engine: openai, url: "{engine.url}", models: [m]}}}}\n'
        async with serving(tmp_path, text) as served:
            question = {"model": "m", "n": 2, "stream": True, "messages": [{"role": "user", "content": "x"}]}
            for faults in ([], [{"at": "event 2", "do": "reset"}]):
                engine.set(rules=[{**body(said(content="a"), END), "faults": faults, "gap": 0.02}])
                answer = await served.post("/v1/chat/completions", question)
                assert (answer.status, answer.whole) == (200, False)
                assert "error" in answer.events[-1] and "[DONE]" not in answer.events
            assert HEALTHY not in answer.body.decode()

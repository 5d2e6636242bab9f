"""Neither prompts, nor answers, nor keys are in the log or in a backend's last error, however an engine fails."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.logs import Json, Text
from tests.faults.support import PROMPT, SECRET, stage

ANSWER = "cuckoo-of-an-answer"
WORDS = f"{ANSWER} {PROMPT} {SECRET}"


def reply(status: int, body: Any, kind: str = "application/json") -> dict[str, Any]:
    """Return a behaviour that answers so."""
    return {"reply": {"status": status, "headers": {"content-type": kind}, "body": body}}


def event(*payloads: str) -> dict[str, Any]:
    """Return a behaviour that streams these payloads."""
    body = "".join(f"data: {payload}\n\n" for payload in payloads)
    return reply(200, body, "text/event-stream")


CHUNK = '{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
FAILURES = {
    "cut JSON": reply(200, '{"choices":[{"message":{"content":"' + WORDS),
    "no JSON": reply(200, WORDS),
    "JSON of another shape": reply(200, {"choices": [{"message": WORDS}]}),
    "no result in it": reply(200, {"said": WORDS}),
    "an unknown reason": reply(
        200,
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": WORDS}]},
    ),
    "401 that echoes the key": reply(
        401, {"error": {"message": f"Incorrect API key: {WORDS}", "code": SECRET}}
    ),
    "402": reply(402, {"error": {"message": WORDS, "code": SECRET, "type": ANSWER}}),
    "400 that quotes the prompt": reply(400, {"error": {"message": WORDS}}),
    "404": reply(404, {"error": {"message": f"model {WORDS} not found"}}),
    "429": reply(429, {"error": {"message": WORDS}}),
    "500 that quotes the prompt": reply(500, {"error": {"message": WORDS}}),
    "500 in HTML": reply(500, f"<html>{WORDS}</html>", "text/html"),
    "503": reply(503, {"error": {"message": WORDS}}),
    "an event that is no JSON": event(CHUNK, '{"choices":[{"delta":{"content":"' + WORDS),
    "a first event that is no JSON": event('{"choices":[{"delta":{"content":"' + WORDS),
    "an error event": event(CHUNK, '{"error":{"message":"' + WORDS + '"}}'),
    "a first error event": event('{"error":{"message":"' + WORDS + '"}}'),
    "an event of another shape": event(CHUNK, '{"choices":"' + WORDS + '"}'),
    "an unknown reason in a stream": event(CHUNK, CHUNK.replace("null", f'"{WORDS}"')),
    "a header that is none": {
        "faults": [{"at": "request", "do": "raw", "data": f"HTTP/1.1 200 OK\r\n{WORDS} : x\x00\r\n\r\n"}]
    },
    "a bad chunk": {
        "faults": [
            {
                "at": "request",
                "do": "raw",
                "data": f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{ANSWER}\r\n{WORDS}\r\n",
            }
        ]
    },
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_no_failure_tells_the_log(
    failure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path) as at:
        at.misbehave(**FAILURES[failure])
        with caplog.at_level(logging.DEBUG, "gateway"):
            for stream in (False, True):
                await at.ask("alone", stream=stream)
        last = at.backend().last_error
    told = caplog.text + (last.message if last is not None else "")
    for record in caplog.records:
        told += Text().format(record) + Json().format(record)
    for private in (ANSWER, PROMPT, SECRET):
        assert private not in told
    assert last is not None or failure.startswith("400")


def test_an_exception_is_logged_without_its_message() -> None:
    """An adapter's bug may quote what it stumbled over."""
    try:
        try:
            int(ANSWER)
        except ValueError as error:
            raise LookupError(PROMPT) from error
    except LookupError as error:
        record = logging.LogRecord(
            "gateway.x", logging.ERROR, __file__, 1, "a bug", (), (LookupError, error, error.__traceback__)
        )
    for formatter in (Text(), Json()):
        line = formatter.format(record)
        assert "LookupError" in line and "ValueError" in line
        assert "test_an_exception_is_logged_without_its_message" in line
        assert ANSWER not in line and PROMPT not in line

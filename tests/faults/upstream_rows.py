"""The upstream fault catalogue as data: what an engine does, and what the gateway must make of it.

Rules:
- A row says what happens to a plain request and to a stream; where one of them makes no sense it is left out.
- Nothing here runs: `test_upstream` plays every row against a gateway, alone and beside a healthy engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.faults.support import FAULTY


@dataclass(frozen=True)
class Fine:
    """The client gets a complete, correct answer; nothing is held against the engine."""

    text: str = FAULTY


@dataclass(frozen=True)
class Refused:
    """It fails before anything went to the client: another backend takes over, or the client gets this error."""

    status: int
    code: str
    kind: str
    elsewhere: bool = True
    counts: bool = True
    """The breaker counts it."""


@dataclass(frozen=True)
class Cut:
    """It fails after some of the answer went out: the client gets an error event, and no other backend is asked."""

    code: str
    kind: str
    said: str | None = "faulty one"
    """What the client has got until then; None where that depends on how fast the machine is."""
    counts: bool = True


Expected = Fine | Refused | Cut


@dataclass(frozen=True)
class Case:
    """One row: the engine's behaviour (`gateway.fake.script.Behaviour`) and the results."""

    row: str
    what: str
    behaviour: dict[str, Any]
    whole: Expected | None = None
    stream: Expected | None = None
    clocks: str = ""
    """Timeouts of the faulty backend."""
    ask: dict[str, Any] = field(default_factory=dict)
    """More members of the request."""

    def __str__(self) -> str:
        return f"{self.row} {self.what}"


def at(place: str, do: str, **more: Any) -> dict[str, Any]:
    """Return a behaviour with one fault."""
    return {"faults": [{"at": place, "do": do, **more}], "gap": 0.005}


def raw(*parts: str | bytes) -> dict[str, Any]:
    """Return a behaviour that answers with these bytes, and nothing else, and closes."""
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return {"faults": [{"at": "request", "do": "raw", "data": data}, {"at": "request", "do": "close"}]}


def events(*payloads: Any, done: bool = True) -> dict[str, Any]:
    """Return a behaviour that streams these payloads."""
    listed = [item if isinstance(item, str) else json.dumps(item) for item in payloads]
    return {"sse": {"events": [*listed, *(["[DONE]"] if done else [])]}}


def answered(status: int, **reply: Any) -> dict[str, Any]:
    """Return a behaviour that answers so, with JSON where nothing else is said."""
    return {"reply": {"status": status, "headers": {"content-type": "application/json"}, **reply}}


def chunk(*, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk of a chat stream with as little around it as an engine may write."""
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def both(row: str, what: str, behaviour: dict[str, Any], expected: Expected, **more: Any) -> Case:
    return Case(row, what, behaviour, expected, expected, **more)


def stream(row: str, what: str, behaviour: dict[str, Any], expected: Expected, **more: Any) -> Case:
    return Case(row, what, behaviour, None, expected, **more)


def whole(row: str, what: str, behaviour: dict[str, Any], expected: Expected, **more: Any) -> Case:
    return Case(row, what, behaviour, expected, None, **more)


TOO_LARGE = Refused(502, "answer_too_large", "limit", elsewhere=False, counts=False)
CUT_TOO_LARGE = Cut("answer_too_large", "limit", counts=False)
RESET = Refused(502, "upstream_reset", "reset")
GARBLED = Refused(502, "upstream_protocol_error", "garbled")
FAILED = Refused(502, "upstream_error", "failed")
OVERLOADED = Refused(503, "overloaded", "overloaded", counts=False)
REJECTED = Refused(400, "invalid_value", "rejected", elsewhere=False, counts=False)
AUTH = Refused(502, "upstream_auth_error", "refused", counts=False)
MISSING = Refused(502, "upstream_model_missing", "missing", counts=False)
CONTEXT = Refused(400, "context_length_exceeded", "context", elsewhere=False, counts=False)
NO_HEAD = Refused(504, "upstream_timeout_first_byte", "timeout")
NO_TOKEN = Refused(504, "upstream_timeout_first_token", "timeout")
TOO_LONG = Refused(504, "upstream_timeout_total", "timeout", elsewhere=False)
CUT_RESET = Cut("upstream_reset", "reset")
CUT_GARBLED = Cut("upstream_protocol_error", "garbled")
SILENT = Cut("upstream_timeout_stream", "timeout")
FINE = Fine()

FIRST_BYTE, FIRST_TOKEN, IDLE = "first_byte: 200ms", "first_token: 250ms", "idle: 250ms"
HTML = {"body": "<html><body>It works!</body></html>", "headers": {"content-type": "text/html"}}
COMPLETION = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}
OVERLONG = {"message": "maximum context length is 8 tokens", "type": "BadRequestError", "code": 400}
NAN = '{"choices":[{"index":0,"%s":{"content":"x"},"logprobs":NaN,"finish_reason":"stop"}]}'
OK_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED_HEAD = OK_HEAD + "transfer-encoding: chunked\r\n\r\n"
HUGE = "f" * 20 + "\r\n"

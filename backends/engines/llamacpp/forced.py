"""Answers of llama.cpp that call no tool although one had to be called.

Facts are those of llama.cpp b11549, run: where the model's chat template knows no tools, its server leaves them out of
the prompt and answers in words, whatever `tool_choice` says. Nothing tells it beforehand.

Rules:
- Such an answer is no answer: it is refused as what the engine cannot do, so that another backend may be asked. Of a
  stream that is known only at its end.
- An answer that its limit has cut passes: its call may have come later.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Engine, Failure, Kind, Operation, Request
from backends.dialect.stream import EventStream

_FREE = (b"", b"null", b'"auto"', b'"none"', b'{"type":"auto"}', b'{"type":"none"}')
"""Choices that leave it to the model whether to call a tool, without spaces."""
_TALKED = {
    Operation.CHAT: (b'"tool_calls":[', b'"finish_reason":"stop"'),
    Operation.MESSAGES: (b'"type":"tool_use"', b'"stop_reason":"end_turn"'),
    Operation.RESPONSES: (b'"type":"function_call"', b'"status":"completed"'),
}
"""What an answer of each API has that calls a tool, and one that ended by itself."""


class _Asked(msgspec.Struct):
    tool_choice: msgspec.Raw = msgspec.Raw()
    tools: list[Any] | None = None


_asked = msgspec.json.Decoder(_Asked)


def is_forced(request: Request) -> bool:
    """Return whether a tool must be called."""
    if b'"tool_choice"' not in request.body or request.operation not in _TALKED:
        return False
    try:
        asked = _asked.decode(request.body)
    except (ValueError, RecursionError):
        return False
    return bool(asked.tools) and bytes(asked.tool_choice).replace(b" ", b"") not in _FREE


def failure() -> Failure:
    """Return what is wrong with an answer that calls no tool."""
    message = "the engine cannot make this model call a tool: its chat template knows none"
    return Failure(Kind.UNSUPPORTED, message, param="tool_choice")


def talked(request: Request, body: bytes) -> bool:
    """Return whether a whole answer ended by itself, without the call that had to be in it."""
    call, ended = _TALKED[request.operation]
    return call not in body and ended in body


class ForcedStream(EventStream):
    """Watches the stream of a chat that must call a tool."""

    __slots__ = ("_called",)

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__(engine, request)
        self._called = False

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        call, ended = _TALKED[Operation.CHAT]
        self._called = self._called or call in payload
        if ended in payload and not self._called:
            self.fail(failure())
            return b""
        return super()._decode(payload, event)

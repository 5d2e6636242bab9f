"""Answers of llama.cpp that call no tool although one had to be called.

Facts are those of llama.cpp b11549, run: where the model's chat template knows no tools, its server leaves them out of
the prompt and answers in words, whatever `tool_choice` says. Nothing tells it beforehand. Where the template knows
them, a grammar makes the model call one, with words before the call or without.

Rules:
- Such an answer is no answer: it is refused as what the engine cannot do, so that another backend may be asked.
- The words of a stream are held back until a call begins, so that a client that gets any of them gets the call too.
  What the model thinks passes. Words too long to be held pass, and the stream fails at its end.
- An answer that its limit has cut passes: its call may have come later.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Failure, Kind, Operation, Request, StreamDecoder
from backends.dialect.decoder import Decoder

_FREE = (b"", b"null", b'"auto"', b'"none"', b'{"type":"auto"}', b'{"type":"none"}')
"""Choices that leave it to the model whether to call a tool, without spaces."""
_CALLS = {
    Operation.CHAT: b'"tool_calls":[',
    Operation.MESSAGES: b'"type":"tool_use"',
    Operation.RESPONSES: b'"type":"function_call"',
}
"""What an answer of each API has that calls a tool. Within a text its quotes would be escaped."""
_ENDS = {
    Operation.CHAT: b'"finish_reason":"stop"',
    Operation.MESSAGES: b'"stop_reason":"end_turn"',
    Operation.RESPONSES: b'"type":"response.completed"',
}
"""What the event of each API has that ends an answer which its limit did not cut."""
_WORDS = {
    Operation.CHAT: b'"content":"',
    Operation.MESSAGES: b'"type":"text_delta"',
    Operation.RESPONSES: b'"type":"response.output_text.delta"',
}
"""What an event of each API has that is a part of the model's words."""
_HELD = 1 << 20
"""Most bytes of words that are held back."""


class _Asked(msgspec.Struct):
    tool_choice: msgspec.Raw = msgspec.Raw()
    tools: list[Any] | None = None


class _Response(msgspec.Struct):
    status: str | None = None


_asked = msgspec.json.Decoder(_Asked)
_response = msgspec.json.Decoder(_Response)


def is_forced(request: Request) -> bool:
    """Return whether a tool must be called."""
    if b'"tool_choice"' not in request.body or request.operation not in _CALLS:
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
    """Return whether a whole answer, as the client would get it, ended by itself without the call it had to have."""
    operation = request.operation
    if _CALLS[operation] in body:
        return False
    if operation is Operation.RESPONSES:
        return _response.decode(body).status == "completed"
    return _ENDS[operation] in body


class ForcedStream(Decoder):
    """Watches a stream that must call a tool, and holds its words back until it does."""

    __slots__ = ("_called", "_held", "_holds", "_inner", "_operation")

    def __init__(self, inner: StreamDecoder, operation: Operation) -> None:
        """Hold back what `inner` returns, the decoder of a stream of this operation."""
        super().__init__()
        self._inner = inner
        self._operation = operation
        self._called = False
        self._holds = False
        self._held = bytearray()
        """The words so far, and what came after them."""

    def bound(self, size: int) -> None:
        self._inner.bound(size)

    def feed(self, data: bytes) -> bytes:
        return b"" if self.over else self._pass(self._inner.feed(data))

    def close(self) -> bytes:
        return b"" if self.over else self._pass(self._inner.close(), ends=True)

    def _pass(self, out: bytes, *, ends: bool = False) -> bytes:
        """Return what the client gets of the events in `out`, which are whole."""
        inner, operation = self._inner, self._operation
        self._called = self._called or _CALLS[operation] in out
        self.usage = inner.usage
        if not self._called and _ENDS[operation] in out:
            self.fail(failure())
            return b""
        if inner.failure is not None:
            self.fail(inner.failure)
            ends = True
        if not self._called and _WORDS[operation] in out:
            self._holds = True
        if self._holds:
            self._held += out
            # At its limit a chat is over before its last event is here, which tells whether it was one.
            if not (self._called or ends or (inner.finished and out) or len(self._held) > _HELD):
                # The engine is at work, though the client sees nothing of it.
                self.growing = True
                return b""
            out = bytes(self._held)
            self._held.clear()
            self._holds = False
        self.content, self.events = inner.content, inner.events
        self.finished, self.growing, self.enough = inner.finished, inner.growing, inner.enough
        return out

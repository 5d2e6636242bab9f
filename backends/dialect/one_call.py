"""Leave every tool call but the first out of an answer, for engines that do not hear `parallel_tool_calls: false`.

Rules:
- Of each choice the first call is kept, by its index in a stream. Whatever else an answer says passes as it is.
- An event of a call is always looked into: one that is like it may belong to another call.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backends.base import Operation, Request
from backends.dialect.shapes import Event
from backends.dialect.stream import EventStream
from backends.framing import sse

_CALLS: Final = (b'"tool_calls":[', b'"tool_calls": [')
"""How calls begin in an event; many engines send null in every other."""


class _Asked(msgspec.Struct):
    parallel_tool_calls: bool | None = None


_asked = msgspec.json.Decoder(_Asked)
_decode = msgspec.json.Decoder()


def wanted(request: Request) -> bool:
    """Return whether the client wants one tool call at a time."""
    if request.operation is not Operation.CHAT or b'"parallel_tool_calls"' not in request.body:
        return False
    try:
        return _asked.decode(request.body).parallel_tool_calls is False
    except (ValueError, RecursionError):
        return False


class FirstCall(EventStream):
    """Watches a stream of chunks, and leaves out every tool call but the first."""

    __slots__ = ()

    def _public(self, event: bytes, said: Event) -> bytes:
        public = super()._public(event, said)
        if not _has_calls(public):
            return public
        chunk: dict[str, Any] = _decode.decode(public[6:-2])
        changed = [_keep_first(choice.get("delta") or {}) for choice in chunk.get("choices") or ()]
        return sse.encode(msgspec.json.encode(chunk)) if any(changed) else public

    def _learn(self, event: bytes, public: bytes) -> None:
        if not _has_calls(event):
            super()._learn(event, public)


def _has_calls(event: bytes) -> bool:
    return any(begin in event for begin in _CALLS)


def _keep_first(delta: dict[str, Any]) -> bool:
    """Leave out the calls of a delta that are not the first, and return whether there were any."""
    calls = delta.get("tool_calls") or ()
    kept = [call for call in calls if not call.get("index")]
    if len(kept) == len(calls):
        return False
    delta["tool_calls"] = kept
    if not kept:
        del delta["tool_calls"]
    return True


def first_call(body: bytes) -> bytes:
    """Return a whole chat completion with the first tool call of each choice. Raise ValueError if it is none."""
    answer = _decode.decode(body)
    for choice in answer["choices"]:
        message = choice.get("message") or {}
        if message.get("tool_calls"):
            message["tool_calls"] = message["tool_calls"][:1]
    return msgspec.json.encode(answer)

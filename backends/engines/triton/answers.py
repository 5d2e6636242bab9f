"""Read the answers of Triton's OpenAI frontend: it never says that a limit was reached, nor that a tool is called.

Facts are those of the frontend of server 2.73, run with scripted models.

Rules:
- An answer of as many tokens as it was allowed has reached its limit; one that says its last word there looks the same.
- In a stream the counts come after the finish reason, so the event with that is held back until they or the end have
  come. The stream is not complete before.
- Models that count no tokens end with `stop`.
- An answer by a schema is the arguments of a tool call, see `asked.py`.
- TensorRT-LLM's backends leave stop strings in the text, which is cut here. That ends it with `stop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends.base import Engine, Request, Usage
from backends.dialect.cutting import CuttingStream, cut
from backends.framing import sse

_decode = msgspec.json.Decoder()


class LateReason(CuttingStream):
    """Watches a stream of chunks of one choice, whose finish reason is known when its tokens were counted."""

    __slots__ = ("_held", "_limit")

    def __init__(self, engine: Engine, request: Request, limit: int, stops: Sequence[str]) -> None:
        """Make a decoder; `limit` is the most tokens of the answer, `stops` are the strings that end it."""
        super().__init__(engine, request, stops)
        self._limit = limit
        self._held = b""
        """The event with the finish reason."""

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        held = self._held
        public = super()._decode(payload, event)
        if self.failure is not None:
            return b""
        if self.enough:
            return public
        if held:
            return self._release() + public
        if self.finished:
            # With no counts to be sent, the base has kept the event back itself.
            self.finished = False
            self._held, self._kept, public = self._kept or public, b"", public if self._kept else b""
        return public

    def _on_done(self) -> bytes:
        return self._release() + super()._on_done()

    def _release(self) -> bytes:
        """Return the event that was held back, if any, with the reason that is known now."""
        held, self._held = self._held, b""
        if not held:
            return b""
        self.finished = True
        if any(cutter.hit for cutter in self._cutters.values()):
            return held
        return sse.encode(with_reasons(held[6:-2], self.usage, self._limit))


def with_reasons(
    body: bytes, usage: Usage | None, limit: int, stops: Sequence[str] = (), by_schema: bool = False
) -> bytes:
    """Return an answer, or an event with finish reasons, that says why it ended. Raise ValueError if it is neither.

    Its text is cut before `stops`. One `by_schema` is the arguments of its only tool call.
    """
    answer: dict[str, Any] = _decode.decode(body)
    full = usage is not None and usage.output >= limit
    for choice in answer.get("choices") or ():
        if by_schema:
            _said_as_arguments(choice["message"])
        if choice.get("finish_reason") == "stop":
            calls = (choice.get("message") or {}).get("tool_calls")
            choice["finish_reason"] = "length" if full else "tool_calls" if calls else "stop"
        if stops:
            _cut(choice, stops)
    return msgspec.json.encode(answer)


def _cut(choice: dict[str, Any], stops: Sequence[str]) -> None:
    """Cut the text of a whole choice before its first stop string, which then is why it ended."""
    holder = choice.get("message") or choice
    name = "text" if holder is choice else "content"
    holder[name], hit = cut(holder.get(name) or "", stops)
    if hit:
        choice["finish_reason"] = "stop"


def _said_as_arguments(message: dict[str, Any]) -> None:
    """Make the arguments of a message's tool call its text."""
    calls = message.pop("tool_calls", None)
    if calls:
        message["content"] = calls[0]["function"]["arguments"]

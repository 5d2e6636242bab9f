"""A chat stream, or one of a completion, as Ollama's lines of JSON.

Rules:
- A call is told when it is complete, since its arguments are an object.
- The last line has the counts and the durations, and stands alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Request, Usage
from backends.surfaces import chat
from backends.surfaces.calls import Calls, Step
from backends.surfaces.ollama import answered
from backends.surfaces.places import Members
from backends.surfaces.translation import Clock, Writer

_CHAT = (
    b'"message":{"role":"assistant","content":"',
    b'"message":{"role":"assistant","content":"","thinking":"',
)
_GENERATE = (b'"response":"', b'"response":"","thinking":"')


class LineWriter(Writer):
    """Writes one streamed answer, of `/api/chat` where it `chats`, else of `/api/generate`."""

    def __init__(self, request: Request, clock: Clock, chats: bool) -> None:
        super().__init__()
        self._request = request
        self._clock = clock
        self._chats = chats
        self._before = b'{"model":%b,"created_at":"' % msgspec.json.encode(request.model)
        self._kinds = _CHAT if chats else _GENERATE
        self._after = b'"},"done":false}\n' if chats else b'","done":false}\n'
        self._kind = self._kinds[0]
        """How the last line went on behind its time."""
        self._first = 0
        """When the first content came."""
        self._loaded_in = 0
        """How long its engine's start took, in nanoseconds, where that was told."""
        self._calls = Calls()
        self._told = 0
        """How many calls were told."""
        self._reason: str | None = None
        self._timings: Any = None

    def event(self, payload: bytes) -> bytes:
        said = chat.decode(payload)
        self.continues = False
        self._timings = said.timings or self._timings
        choice = said.first
        if choice is None:
            return b""
        delta = choice.delta or chat.Said()
        thought, text, calls = delta.thought, delta.text or chat.text_of(choice.text), delta.tool_calls or ()
        if not self._first and not self.foreword and (thought or text or calls):
            self._first = self._clock.now()
        self._reason = choice.finish_reason or self._reason
        out = [] if not (thought or text) else self._finished(self._calls.steps(over=True))
        probabilities = choice.probabilities
        if probabilities and (text or thought):
            out.append(self._line(self._piece(text, thought) | {"done": False, "logprobs": probabilities}))
        else:
            out += [self._say(1, thought)] if thought else []
            out += [self._say(0, text)] if text else []
            self.continues = bool(thought) != bool(text) and not calls and choice.finish_reason is None
        for call in calls:
            out += self._finished(self._calls.take(call))
        return b"".join(out)

    def text(self, text: bytes) -> bytes:
        now = answered.when(self._clock.now()).encode()
        return b'%b%b",%b%b%b' % (self._before, now, self._kind, text, self._after)

    def end_foreword(self) -> bytes:
        self._loaded_in = self._clock.now() - self._clock.began
        return super().end_foreword()

    def end(self, usage: Usage) -> bytes:
        out = self._finished(self._calls.steps(over=True))
        ended = answered.ending(self._reason, usage, self._clock, self._first, self._timings, self._loaded_in)
        out.append(self._line(self._piece("", "") | ended))
        return b"".join(out)

    def _say(self, kind: int, text: str) -> bytes:
        """Return the line for more text (0) or more thoughts (1)."""
        self._kind = self._kinds[kind]
        return self.text(msgspec.json.encode(text)[1:-1])

    def _piece(self, text: str, thought: str) -> Members:
        thinking = {"thinking": thought} if thought else {}
        if self._chats:
            return {"message": {"role": "assistant", "content": text} | thinking}
        return {"response": text} | thinking

    def _finished(self, steps: Any) -> list[bytes]:
        """Return the lines for the calls that are complete."""
        out = []
        step: Step
        for step in steps:
            if step.ends and self._chats:
                call = answered.call(step.call.id, self._told, step.call.name, step.call.arguments)
                self._told += 1
                message = {"role": "assistant", "content": "", "tool_calls": [call]}
                out.append(self._line({"message": message, "done": False}))
        return out

    def _line(self, members: Members) -> bytes:
        return msgspec.json.encode(answered.head(self._request, self._clock) | members) + b"\n"

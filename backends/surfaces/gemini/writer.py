"""A chat stream as one of Google's API: server-sent events, or the items of one list.

Rules:
- Each piece is an answer of its own with what is new in it. A call is told when it is complete, since its arguments are
  an object.
- The last piece has the end of every candidate and the counts.
- What the model thinks is left out unless the client asks for it; the gateway's own words on an engine's start are
  told, marked by their signature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.base import Request, Usage
from backends.surfaces import chat
from backends.surfaces.calls import Calls, Step
from backends.surfaces.gemini import answered, content
from backends.surfaces.places import Members
from backends.surfaces.translation import Writer


class _Candidate:
    """One candidate whose pieces arrive."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.reason: str | None = None


class ContentWriter(Writer):
    """Writes one streamed answer; as `events`, else as a list. `thoughts`: what the model thinks is told."""

    def __init__(self, request: Request, events: bool, thoughts: bool) -> None:
        super().__init__()
        self._request = request
        self._is_events = events
        self._thoughts = thoughts
        self._candidates: dict[int, _Candidate] = {}
        self._about: Members = {}
        self._head = b""
        """How a piece begins that goes on with the last text or thought."""
        self._tail = b""
        self._hidden = False
        """Whether what goes on is a thought that the client does not ask for."""

    def event(self, payload: bytes) -> bytes:
        said = chat.decode(payload)
        self.continues = False
        choices = said.choices or ()
        if not self._about and choices:
            self._about = answered.about(self._request, answered.identity(said.id))
        return b"".join([self._choice(choice, len(choices) == 1) for choice in choices])

    def _choice(self, choice: chat.Choice, alone: bool) -> bytes:
        """Return the pieces for what is new of one choice; only one that stands `alone` may be gone on with."""
        index = choice.index or 0
        known = self._candidates.setdefault(index, _Candidate())
        delta = choice.delta or chat.Said()
        thought, text, calls = delta.thought, delta.text, delta.tool_calls or ()
        known.reason = choice.finish_reason or known.reason
        out = [] if not (thought or text) else self._finished(index, known.calls.steps(over=True))
        probable = answered.probabilities(choice)
        if thought:
            out.append(self._say(index, thought, True, {}))
        if text or probable:
            out.append(self._say(index, text, False, probable))
        for call in calls:
            out += self._finished(index, known.calls.take(call))
        plain = not probable and not calls and choice.finish_reason is None
        self.continues = alone and plain and bool(thought) != bool(text)
        return b"".join(out)

    def text(self, text: bytes) -> bytes:
        return b"" if self._hidden else self._framed(self._head + text + self._tail)

    def end(self, usage: Usage) -> bytes:
        out: list[bytes] = []
        for index, known in self._candidates.items():
            out += self._finished(index, known.calls.steps(over=True))
        ended = [
            answered.candidate(index, [], answered.ending(known.reason))
            for index, known in sorted(self._candidates.items())
        ]
        out.append(self._piece({"candidates": ended, "usageMetadata": answered.counts(usage)}))
        if not self._is_events:
            out.append(b"\n]")
        return b"".join(out)

    def _say(self, index: int, text: str, is_thought: bool, probable: Members) -> bytes:
        """Return the piece for more text or thoughts, and remember what stands around its text."""
        self._hidden = is_thought and not self._thoughts and not self.foreword
        if self._hidden:
            return b""
        if probable:
            return self._piece(self._candidate(index, {"text": text}, probable))
        mark = content.MARK if self.foreword else ""
        part = answered.thought("", mark) if is_thought else {"text": ""}
        around = msgspec.json.encode(self._candidate(index, part, {}) | self._about)
        self._head, _, self._tail = around.partition(b'"text":"')
        self._head += b'"text":"'
        return self.text(msgspec.json.encode(text)[1:-1])

    def _candidate(self, index: int, part: Members, more: Members) -> Members:
        told: Members = {"content": {"parts": [part], "role": "model"}, "index": index}
        return {"candidates": [told | more]}

    def _finished(self, index: int, steps: Iterable[Step]) -> list[bytes]:
        """Return the pieces for the calls that are complete."""
        return [
            self._piece(
                self._candidate(index, answered.call(step.call.id, step.call.name, step.call.arguments), {})
            )
            for step in steps
            if step.ends
        ]

    def _piece(self, members: dict[str, Any]) -> bytes:
        return self._framed(msgspec.json.encode(members | self._about))

    def _framed(self, piece: bytes) -> bytes:
        """Return a piece in the form of the stream."""
        self.events += 1
        if self._is_events:
            return b"data: %b\n\n" % piece
        return (b"[" if self.events == 1 else b",\n") + piece

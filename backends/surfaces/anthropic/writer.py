"""A chat stream as a stream of Anthropic's API.

Rules:
- One block is open at a time, and blocks follow each other as the model began them.
- Nothing empty opens a block or closes one.
- The end of the message waits for the engine's counts, which come after its last word. Its beginning tells those of the
  engine's first event, if there are any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.base import Request, Usage
from backends.dialect.usage import usage_of
from backends.surfaces import chat, foreword
from backends.surfaces.anthropic import answered
from backends.surfaces.calls import Calls, Step
from backends.surfaces.translation import Writer

_TEXT, _THINKING, _CALL = "text", "thinking", "tool_use"
_DELTAS = {_TEXT: ("text_delta", "text"), _THINKING: ("thinking_delta", "thinking")}


class MessageWriter(Writer):
    """Writes one streamed message."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._model = request.model
        self._started = False
        self._open = ""
        """The type of the block that is open; empty if none is."""
        self._blocks = 0
        """How many blocks have begun."""
        self._head = b""
        """How an event begins that continues the open block of text or thoughts."""
        self._calls = Calls()
        self._reason: str | None = None
        self._stopped_at: str | None = None

    def event(self, payload: bytes) -> bytes:
        said = chat.decode(payload)
        self.continues = False
        out = [] if self._started else [self._start(said)]
        choice = said.first
        if choice is not None:
            delta = choice.delta or chat.Said()
            thought, text, calls = delta.thought, delta.text, delta.tool_calls or ()
            out += [self._say(_THINKING, thought)] if thought else []
            out += [self._say(_TEXT, text)] if text else []
            out += [self._tell(self._calls.take(call)) for call in calls]
            self._reason = choice.finish_reason or self._reason
            self._stopped_at = choice.stopped_at or self._stopped_at
            self.continues = bool(thought) != bool(text) and not calls and choice.finish_reason is None
        return b"".join(out)

    def text(self, text: bytes) -> bytes:
        return self._head + text + b'"}}\n\n'

    def end_foreword(self) -> bytes:
        self.foreword = False
        return self._close()

    def end(self, usage: Usage) -> bytes:
        out = [] if self._started else [self._start(chat.Completion())]
        out.append(self._tell(self._calls.steps(over=True)))
        out.append(self._close())
        reason, sequence = answered.ending(self._reason, self._stopped_at, self._calls.any)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        out.append(_event("message_delta", {"delta": delta, "usage": answered.counts(usage)}))
        out.append(_event("message_stop", {}))
        return b"".join(out)

    def _start(self, said: chat.Completion) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": answered.identity(said.id),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": answered.counts(usage_of(said.usage) or Usage()),
        }
        return _event("message_start", {"message": message})

    def _say(self, kind: str, text: str) -> bytes:
        """Return the events for more text or thoughts."""
        delta, member = _DELTAS[kind]
        before = b""
        if self._open != kind:
            # What waits for the end of a call is of no use behind this: the model has gone on.
            signature = foreword.SIGNATURE if self.foreword else ""
            empty = {"type": kind, member: ""} | ({"signature": signature} if kind == _THINKING else {})
            before = self._tell(self._calls.steps(over=True)) + self._begin(kind, empty)
            self._head = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"%b","%b":"' % (self._blocks - 1, delta.encode(), member.encode())
            )
        return before + self.text(msgspec.json.encode(text)[1:-1])

    def _tell(self, steps: Iterable[Step]) -> bytes:
        """Return the events for what may be told of calls."""
        out: list[bytes] = []
        for step in steps:
            call = step.call
            if step.begins:
                block = {"type": _CALL, "id": call.id or answered.call_id(), "name": call.name, "input": {}}
                out.append(self._begin(_CALL, block))
            # Clients join the pieces of a call's arguments and expect at least one.
            if step.more or (step.ends and not call.arguments):
                delta = {"type": "input_json_delta", "partial_json": step.more}
                out.append(_event("content_block_delta", {"index": self._blocks - 1, "delta": delta}))
            if step.ends:
                out.append(self._close())
        return b"".join(out)

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        closed = self._close()
        self._open = kind
        self._blocks += 1
        return closed + _event("content_block_start", {"index": self._blocks - 1, "content_block": block})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", {"index": self._blocks - 1})


def _event(kind: str, members: dict[str, Any]) -> bytes:
    payload = msgspec.json.encode({"type": kind, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), payload)

"""OpenAI's stream, watched and handed on: the decoder for engines that speak this dialect themselves.

Rules:
- A stream is watched, not rebuilt. An event is decoded unless it is like one that was, except for its text: the same
  bytes before, the same bytes after, and between them the inside of a JSON string. Such an event is more text and
  nothing else.
- A stream is complete when every choice that was asked for has its finish reason, and says nothing after it. `[DONE]`
  alone is no proof: engines that break off a generation send it too.
- A client that asked for no usage gets no event of counts: it reads `choices[0]` of every event. What the engine tells
  beside them (llama.cpp's `timings`) goes into the event before, the last one with a finish reason.
- Text that passes undecoded is JSON: valid UTF-8, whole escapes, both halves of a surrogate pair.
- This module may be compiled with mypyc: slotted classes with annotated attributes; its structs are in `shapes.py`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from mypy_extensions import mypyc_attr

from backends.base import Engine, Failure, Kind, Request
from backends.dialect import choices, reasons, rewrite
from backends.dialect.chunks import DONE
from backends.dialect.decoder import FramedDecoder
from backends.dialect.errors import garbled
from backends.dialect.shapes import SILENT, Event, decode_event, is_error
from backends.dialect.usage import usage_of
from backends.framing import sse

_TEXT_KEYS: Final = rb"content|text|reasoning|reasoning_content|arguments"
_BEYOND_ASCII: Final = (
    rb"[\xe1-\xec\xee\xef][\x80-\xbf][\x80-\xbf]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
"""A character of UTF-8 (RFC 3629, section 4), the most frequent kind first."""
_ESCAPE: Final = (
    rb'\\["\\/bfnrt]|\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
"""An escape in a JSON string (RFC 8259, section 7)."""
_TEXT: Final = rb'(?:[^"\\\x00-\x1f\x80-\xff]++|' + _ESCAPE + rb"|" + _BEYOND_ASCII + rb")++"
is_text: Final = re.compile(_TEXT).fullmatch
find_text: Final = re.compile(rb'"(?:' + _TEXT_KEYS + rb')": ?"(' + _TEXT + rb')"').search


class _Like:
    """The bytes around the text of a decoded event.

    `public_head` and `public_tail` are the same bytes as the client gets them; None where they do not differ.
    """

    __slots__ = ("head", "public_head", "public_tail", "tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head: bytes = head
        self.tail: bytes = tail
        self.public_head: bytes | None = None
        self.public_tail: bytes = b""


@mypyc_attr(allow_interpreted_subclasses=True)
class EventStream(FramedDecoder):
    """Watches one stream of OpenAI's events; see `backends.base.StreamDecoder`."""

    __slots__ = (
        "_begun",
        "_ended",
        "_engine",
        "_kept",
        "_like",
        "_name",
        "_reworded",
        "_sse",
        "_strip_usage",
        "_wanted",
    )

    def __init__(self, engine: Engine, request: Request) -> None:
        framer = sse.Framer()
        super().__init__(framer)
        self._sse: sse.Framer = framer
        """The framer once more, under its own type: every read asks it whether it is idle."""
        self._engine: Engine = engine
        self._name: bytes = msgspec.json.encode(request.model)
        self._strip_usage: bool = not request.include_usage
        self._like: _Like | None = None
        self._wanted: int = choices.wanted(request)
        """How many choices the stream must have."""
        self._begun: set[int] = set()
        """The choices that have occurred, by index."""
        self._ended: set[int] = set()
        """The choices that have their finish reason, and said nothing after it."""
        self._kept: bytes = b""
        """The event with the last finish reason, while the event with the counts may follow."""
        self._reworded: bool = False
        """Whether the event at hand has a finish reason in words that are not OpenAI's."""

    def feed(self, data: bytes) -> bytes:
        # Nearly every read of a token stream is one whole event that is like another.
        if self._sse.idle:
            event = self._alike(data, 0, len(data))
            if event is not None:
                return event
        return super().feed(data)

    def fail(self, failure: Failure) -> None:
        super().fail(failure)
        self._like = None

    def more(self, data: bytes, start: int, end: int) -> bytes | None:
        """Process `data[start:end]` if that is one whole event which differs from an earlier one only in its text.

        Returns the event for the client, which is `data` itself where the client gets the same bytes; None where
        nothing was processed, and `feed` has to do it.
        """
        return self._alike(data, start, end) if self._sse.idle else None

    def _alike(self, data: bytes, start: int, end: int) -> bytes | None:
        """Return the event in `data[start:end]` for the client, `data` itself where the client gets the same bytes.

        None if it differs from an earlier event in more than its text.
        """
        like = self._like
        if like is None:
            return None
        first, last = start + len(like.head), end - len(like.tail)
        if not (data.startswith(like.head, start, end) and data.endswith(like.tail, first, end)):
            return None
        if not is_text(data, first, last):
            return None
        self.content += 1
        if like.public_head is None:
            return data
        return like.public_head + data[first:last] + like.public_tail

    def _event(self, piece: bytes) -> bytes:
        if self.over or piece in SILENT:
            return b""
        # Several data lines were joined by line feeds, which between JSON tokens are only white space.
        event = sse.encode(piece.replace(b"\n", b" "))
        more = self._alike(event, 0, len(event))
        if more is not None:
            return more
        if piece.strip() == b"[DONE]":
            return self._on_done()
        return self._decode(piece, event)

    def _error(self, payload: bytes) -> Failure:
        return self._engine.failure(500, (), payload)

    def _is_whole(self, piece: bytes) -> bool:
        if piece.strip() == b"[DONE]":
            return True
        try:
            decode_event(piece)
        except (ValueError, RecursionError):
            return False
        return True

    def _end(self) -> bytes:
        if not self.finished:
            self.fail_incomplete()
            return b""
        self._stop()
        return self._kept + DONE

    def _on_done(self) -> bytes:
        """Return what the client gets for `[DONE]`."""
        if not self.finished:
            if not self._ended:
                message = "the engine ended its stream without a finish reason"
                self.fail(Failure(Kind.GARBLED, message, unexplained=True))
            elif self._begun <= self._ended:
                self.fail(choices.too_few())
            else:
                self.fail(Failure(Kind.GARBLED, "the engine ended its stream in the middle of a choice"))
            return b""
        self._stop()
        return self._kept + DONE

    def _stop(self) -> None:
        """Decode nothing more."""
        self.over = True
        self._like = None

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        """Return what the client gets for an event that had to be decoded: `event`, with `payload` in it."""
        try:
            said = decode_event(payload)
        except (ValueError, RecursionError) as error:
            self.fail(garbled("the engine sent an event that is not valid", payload, error))
            return b""
        if is_error(said.error, said.object):
            self.fail(self._engine.failure(500, (), payload))
            return b""
        kept, self._kept = self._kept, b""
        counted = None if said.usage is None else usage_of(said.usage, timings=said.timings)
        if counted is not None:
            self.usage = counted
            if self._strip_usage:
                if not said.choices:
                    return _with_extras(kept, payload)
                payload = rewrite.without(payload, "usage")
                event = sse.encode(payload)
        speaks = self._note(said)
        if self.over:
            return b""
        reworded = sse.encode(reasons.rewritten(payload)) if self._reworded else event
        public = self._public(reworded, said)
        if speaks and counted is None:
            self._learn(event, public)
        if self.finished and self._strip_usage and not speaks:
            self._kept = public
            return kept
        return kept + public

    def _public(self, event: bytes, said: Event) -> bytes:
        """Return a decoded event as the client gets it. Events like it will be changed in the same way."""
        return rewrite.renamed(event, bytes(said.model), self._name)

    def _note(self, said: Event) -> bool:
        """Record what an event says; return whether it has content."""
        speaks = bool(said.prompt_progress)
        self._reworded = False
        for choice in said.choices or ():
            index = choice.index or 0
            self._begun.add(index)
            spoken = choice.speaks()
            speaks = speaks or spoken
            reason = choice.finish_reason
            if not reasons.is_open(reason):
                self._end_choice(index, reason or "")
            else:
                self._reworded = self._reworded or reason is not None
                if spoken:
                    self._ended.discard(index)
        self.content += speaks
        self.finished = len(self._ended) >= self._wanted and self._begun <= self._ended
        return speaks

    def _end_choice(self, index: int, reason: str) -> None:
        """Record that a choice has its finish reason. What it says afterwards is decoded again."""
        self._ended.add(index)
        self._like = None
        public = reasons.public(reason)
        if public is None:
            self.fail(reasons.broke_off(reason))
        elif public != reason:
            self._reworded = True

    def _learn(self, event: bytes, public: bytes) -> None:
        """Remember the bytes around the text of an event, so that the next one like it need not be decoded."""
        text = find_text(event)
        if text is None:
            return
        like = _Like(event[: text.start(1)], event[text.end(1) :])
        if public != event:
            same = find_text(public)
            if same is not None:
                like.public_head = public[: same.start(1)]
                like.public_tail = public[same.end(1) :]
        self._like = like


def _with_extras(event: bytes, counts: bytes) -> bytes:
    """Return an event with what the payload of the event with the counts tells beside them."""
    payload = sse.payload(event)
    if payload is None:
        return event
    told = rewrite.members(payload)
    more = rewrite.members(counts)
    extras = {name: value for name, value in more.items() if name not in _ENVELOPE and value not in _NOTHING}
    return sse.encode(rewrite.joined({**told, **extras})) if extras else event


_ENVELOPE: Final = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)
"""The members that every event has."""
_NOTHING: Final = (b"null", b"{}", b"[]", b'""')

"""Cut server-sent events without any I/O: bytes in, in any pieces; whole events out.

Rules:
- The events do not depend on how the bytes are split.
- Lines end only with LF, CRLF or CR. U+2028 and similar characters occur inside JSON strings and end no line.
- A byte order mark at the start, comments, and the fields `id`, `event` and `retry` are dropped; several `data` lines
  are joined by a line feed (HTML Living Standard, section 9.2.6).
- An event named `error`, or a field `error`, is an engine's failure. Nothing is read after it.
- An event is returned as soon as its blank line has been read, even if lines end with CR.
- `Framer` returns the data of events; `Blocks` returns whole events, for APIs whose `event` lines matter.
- After an event longer than the limit nothing is read or buffered.
- The work grows with the number of bytes alone, and the memory with the size of one event, however small the pieces.
- This module may be compiled with mypyc: slotted classes with annotated attributes only.
"""

from __future__ import annotations

import itertools

from backends.framing import limit as limits

_BOM = b"\xef\xbb\xbf"
_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""How the first line of a stream begins. No JSON and no HTML begins so."""
_ERROR_NAMES = (b"event: error", b"event:error")


def encode(payload: bytes) -> bytes:
    """Return one event with this payload, which must not contain a line break."""
    return b"data: " + payload + b"\n\n"


def is_stream(beginning: bytes) -> bool | None:
    """Return whether a body that begins so is a stream of events; None if it takes more bytes to tell."""
    text = beginning[:64].removeprefix(_BOM).lstrip(b"\r\n")
    if text.startswith(_BEGINNINGS):
        return True
    begun = any(mark.startswith(text) for mark in (*_BEGINNINGS, _BOM))
    return None if begun and len(beginning) < 64 else False


class Framer:
    """Cuts a byte stream into the payloads of its events.

    `idle` is true between two events, when nothing is buffered; `growing` while an event has begun and not ended, which
    a comment never does; `too_long` once an event has exceeded `limit` bytes. `error` is the payload of an event named
    `error`, once one has come: not among the payloads that `feed` returns, and after all of them.
    """

    __slots__ = (
        "_after_cr",
        "_first",
        "_line",
        "_more",
        "_named_error",
        "_over",
        "_size",
        "_start",
        "error",
        "growing",
        "idle",
        "limit",
        "too_long",
    )

    def __init__(self, limit: int = limits.EVENT) -> None:
        self.idle: bool = False
        self.growing: bool = False
        self.too_long: bool = False
        self.error: bytes | None = None
        self.limit: int = limit
        self._line: bytearray = bytearray()
        """The bytes of a line whose end is still to come."""
        self._first: bytes | None = None
        """The first `data` line of the event under way."""
        self._more: bytearray = bytearray()
        """The further ones, each after a line feed."""
        self._named_error: bool = False
        self._over: bool = False
        """Whether nothing more is read."""
        self._size: int = 0
        """The bytes of the event's lines that have ended."""
        self._start: bool = True
        self._after_cr: bool = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Process the next bytes; return the payload of every event they complete."""
        if self.idle and self._is_one_event(chunk):
            return [chunk[6:-2]]
        if not chunk or self._over:
            return []
        if self._start:
            chunk = bytes(self._line) + chunk
            self._line.clear()
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._line += chunk
                return []
            self._start = False
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr:
            # The CR has already ended its line; a line feed here is the second half of a CRLF.
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        events = [payload for line in lines if (payload := self._ended(line)) is not None]
        self._line += rest
        if self._size + len(self._line) > self.limit:
            self._overflow()
        held = len(self._line) > 0
        self.growing = self._first is not None or (held and not self._line.startswith(b":"))
        self.idle = not (self._size or held or self._after_cr or self._over)
        return events

    def _is_one_event(self, chunk: bytes) -> bool:
        """Return whether a read is exactly one event on one line, as most reads of a token stream are."""
        return (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and len(chunk) <= self.limit
            and b"\r" not in chunk
        )

    def close(self) -> list[bytes]:
        """Return the last event, if no blank line followed it; the stream has ended."""
        lines = (bytes(self._line), b"")
        self._line.clear()
        return [payload for line in lines if (payload := self._ended(line)) is not None]

    def _ended(self, line: bytes) -> bytes | None:
        """Process one line; return the payload of the event it ends, None if it ends none."""
        if self._over:
            return None
        if not line:
            return self._event()
        self._size += len(line) + 1
        if self._size > self.limit:
            self._overflow()
        elif line.startswith(b"data:"):
            self._add(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            self._add(b"")
        elif line in _ERROR_NAMES:
            self._named_error = True
        elif line.startswith(b"error:"):
            self._named_error = True
            self._add(line[6:].strip())
        return None

    def _add(self, said: bytes) -> None:
        """Hold one `data` line of the event under way."""
        if self._first is None:
            self._first = said
        else:
            self._more += b"\n"
            self._more += said

    def _event(self) -> bytes | None:
        """Return the payload of the event that ends here; None if it has none, or is an error."""
        payload = self._first
        if payload is not None and self._more:
            payload += bytes(self._more)
            self._more.clear()
        self._size = 0
        self._first = None
        if self._named_error:
            self.error = payload or b""
            self._over = True
            return None
        return payload

    def _overflow(self) -> None:
        self.too_long = self._over = True
        self._line.clear()
        self._first = None
        self._more.clear()


class Blocks:
    """Cuts a byte stream into whole events with all their lines, for streams whose `event` lines matter.

    Line ends become line feeds; everything else is kept, comments included. `growing`, `too_long` and `error` are as in
    `Framer`, but an error is recognised by whoever reads the event.
    """

    __slots__ = ("_after_cr", "_held", "error", "growing", "limit", "too_long")

    def __init__(self, limit: int = limits.EVENT) -> None:
        self.too_long: bool = False
        self.growing: bool = False
        self.error: bytes | None = None
        self.limit: int = limit
        self._held: bytearray = bytearray()
        self._after_cr: bool = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Process the next bytes; return every event they complete, without its blank line."""
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk or self.too_long:
            return []
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks: list[bytes] = []
        if b"\n\n" in chunk or (chunk.startswith(b"\n") and self._held.endswith(b"\n")):
            whole = (bytes(self._held) + chunk).split(b"\n\n")
            chunk = whole.pop()
            blocks = [event for block in whole if (event := block.removeprefix(_BOM).strip(b"\n"))]
            self._held.clear()
        self._held += chunk
        if len(self._held) > self.limit or any(len(block) > self.limit for block in blocks):
            self.too_long = True
            self._held.clear()
        self.growing = len(self._held) > 0 and not self._held.startswith((b"\n", b":"))
        return list(itertools.takewhile(lambda block: len(block) <= self.limit, blocks))

    def close(self) -> list[bytes]:
        """Return the last event, if no blank line followed it; the stream has ended."""
        rest = bytes(self._held).removeprefix(_BOM).strip(b"\n")
        self._held.clear()
        return [rest] if rest else []


def payload(block: bytes) -> bytes | None:
    """Return the joined `data` lines of an event; None if it has none."""
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def error_of(block: bytes) -> bytes | None:
    """Return the payload of an event named `error`, or of a field `error`; None for any other event."""
    if b"error" not in block:
        return None
    named, said = False, []
    for line in block.split(b"\n"):
        if line in _ERROR_NAMES:
            named = True
        elif line.startswith(b"error:"):
            named = True
            said.append(line[6:].strip())
        elif line.startswith(b"data:"):
            said.append(line[5:].removeprefix(b" "))
    return b"\n".join(said) if named else None

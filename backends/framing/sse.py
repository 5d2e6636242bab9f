"""Cut server-sent events without any I/O: bytes in, in any pieces; whole events out.

Rules:
- The events do not depend on how the bytes are split.
- Lines end only with LF, CRLF or CR. U+2028 and similar characters occur inside JSON strings and end no line.
- A byte order mark at the start, comments, and the fields `id`, `event` and `retry` are dropped; several `data` lines
  are joined by a line feed (HTML Living Standard, section 9.2.6).
- An event is returned as soon as its blank line has been read, even if lines end with CR.
- `Framer` returns the data of events; `Blocks` returns whole events, for APIs whose `event` lines matter.
- After an event longer than the limit nothing is read or buffered.
- This module may be compiled with mypyc: slotted classes with annotated attributes only.
"""

from __future__ import annotations

import itertools

LIMIT = 1 << 20
"""The most bytes of one event's lines together. An engine that sends more is broken or hostile."""

_BOM = b"\xef\xbb\xbf"


def encode(payload: bytes) -> bytes:
    """Return one event with this payload, which must not contain a line break."""
    return b"data: " + payload + b"\n\n"


class Framer:
    """Cuts a byte stream into the payloads of its events.

    `idle` is true between two events, when nothing is buffered; `too_long` once an event has exceeded `limit` bytes.
    """

    __slots__ = ("_after_cr", "_data", "_rest", "_size", "_start", "idle", "limit", "too_long")

    def __init__(self, limit: int = LIMIT) -> None:
        self.idle: bool = False
        self.too_long: bool = False
        self.limit: int = limit
        self._rest: bytes = b""
        self._data: list[bytes] = []
        self._size: int = 0
        self._start: bool = True
        self._after_cr: bool = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Process the next bytes; return the payload of every event they complete."""
        if self.idle and self._is_one_event(chunk):
            return [chunk[6:-2]]
        if not chunk or self.too_long:
            return []
        text = self._rest + chunk
        if self._start:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._rest = text
                return []
            self._start = False
            text = text.removeprefix(_BOM)
        if self._after_cr:
            # The CR has already ended its line; a line feed here is the second half of a CRLF.
            text = text.removeprefix(b"\n")
        self._after_cr = text.endswith(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._rest = lines.pop()
        events = [payload for line in lines if (payload := self._line(line)) is not None]
        if self._size + len(self._rest) > self.limit:
            self._overflow()
        self.idle = not (self._size or self._rest or self._after_cr)
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
        lines = (self._rest, b"")
        self._rest = b""
        return [payload for line in lines if (payload := self._line(line)) is not None]

    def _line(self, line: bytes) -> bytes | None:
        """Process one line; return the payload of the event it ends, None if it ends none."""
        if self.too_long:
            return None
        if line:
            self._size += len(line) + 1
            if self._size > self.limit:
                self._overflow()
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line == b"data":
                self._data.append(b"")
            return None
        self._size = 0
        if not self._data:
            return None
        payload = b"\n".join(self._data)
        self._data.clear()
        return payload

    def _overflow(self) -> None:
        self.too_long = True
        self._rest = b""
        self._data.clear()


class Blocks:
    """Cuts a byte stream into whole events with all their lines, for streams whose `event` lines matter.

    Line ends become line feeds; everything else is kept, comments included. `too_long` is true once an event has
    exceeded `limit` bytes.
    """

    __slots__ = ("_after_cr", "_held", "_size", "limit", "too_long")

    def __init__(self, limit: int = LIMIT) -> None:
        self.too_long: bool = False
        self.limit: int = limit
        self._held: list[bytes] = []
        self._size: int = 0
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
        if b"\n\n" in chunk or (chunk.startswith(b"\n") and self._held and self._held[-1].endswith(b"\n")):
            whole = b"".join([*self._held, chunk]).split(b"\n\n")
            chunk = whole.pop()
            blocks = [event for block in whole if (event := block.removeprefix(_BOM).strip(b"\n"))]
            self._held, self._size = [], 0
        self._held.append(chunk)
        self._size += len(chunk)
        if self._size > self.limit or any(len(block) > self.limit for block in blocks):
            self.too_long = True
            self._held.clear()
        return list(itertools.takewhile(lambda block: len(block) <= self.limit, blocks))

    def close(self) -> list[bytes]:
        """Return the last event, if no blank line followed it; the stream has ended."""
        rest = b"".join(self._held).removeprefix(_BOM).strip(b"\n")
        self._held.clear()
        return [rest] if rest else []


def payload(block: bytes) -> bytes | None:
    """Return the joined `data` lines of an event; None if it has none."""
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None

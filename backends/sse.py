"""Server-sent events, sans I/O: bytes in any pieces, whole events out.

Rules:
- Any split of the same bytes gives the same events.
- Lines end with LF, CRLF or CR and with nothing else: U+2028 and its like occur inside JSON strings.
- A byte order mark at the start, comments, and the fields `id`, `event` and `retry` are dropped; several `data` lines
  are joined by a line feed. (HTML Living Standard, section 9.2.6.)
- An event is given as soon as its blank line is known, also where lines end with CR.
- Past an event longer than the limit nothing is read, and nothing is buffered.
"""

from __future__ import annotations

LIMIT = 1 << 20
"""Bytes the lines of one event may have together. An engine that sends more is broken or hostile."""

_BOM = b"\xef\xbb\xbf"


def encode(payload: bytes) -> bytes:
    """One event holding `payload`, which has no line break."""
    return b"data: " + payload + b"\n\n"


class Framer:
    """Cuts a byte stream into the payloads of its events.

    `idle`: the stream stands between two events and nothing is held. `too_long`: an event grew beyond the limit.
    """

    __slots__ = ("_after_cr", "_data", "_limit", "_rest", "_size", "_start", "idle", "too_long")

    def __init__(self, limit: int = LIMIT) -> None:
        self.idle = False
        self.too_long = False
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._start = True
        self._after_cr = False
        self._limit = limit

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the payload of every event they complete."""
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
            # That CR has ended its line already; a line feed here is the second half of a CRLF.
            text = text.removeprefix(b"\n")
        self._after_cr = text.endswith(b"\r")
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        events = [payload for payload in map(self._line, lines) if payload is not None]
        if self._size + len(self._rest) > self._limit:
            self._overflow()
        self.idle = not (self._size or self._rest or self._after_cr)
        return events

    def _is_one_event(self, chunk: bytes) -> bool:
        """One event on one line, whole: what most reads of a token stream are."""
        return (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and len(chunk) <= self._limit
            and b"\r" not in chunk
        )

    def close(self) -> list[bytes]:
        """The stream ended: return the last event if no blank line followed it."""
        lines = (self._rest, b"")
        self._rest = b""
        return [payload for payload in map(self._line, lines) if payload is not None]

    def _line(self, line: bytes) -> bytes | None:
        if self.too_long:
            return None
        if line:
            self._size += len(line) + 1
            if self._size > self._limit:
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

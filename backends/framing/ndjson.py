"""Cut newline-delimited JSON into lines without any I/O: bytes in, in any pieces; whole lines out.

Rules:
- The lines do not depend on how the bytes are split.
- A line ends with a line feed, or with a carriage return and a line feed. Blank lines are skipped.
- After a line longer than the limit nothing is read or buffered.
- The work grows with the number of bytes alone, and the memory with the size of one line, however small the pieces.
"""

from __future__ import annotations

from backends.framing import limit as limits


class Framer:
    """Cuts a byte stream into its lines.

    `idle` is true between two lines, when nothing is buffered; `growing` while a line has begun and not ended;
    `too_long` once a line has exceeded `limit` bytes. `error` is None: whoever reads a line sees whether it is one.
    """

    __slots__ = ("_held", "error", "growing", "idle", "limit", "too_long")

    def __init__(self, limit: int = limits.EVENT) -> None:
        self.idle: bool = True
        self.growing: bool = False
        self.too_long: bool = False
        self.error: bytes | None = None
        self.limit: int = limit
        self._held: bytearray = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Process the next bytes; return every line they complete."""
        if self.idle and chunk.find(b"\n") == len(chunk) - 1 and len(chunk) <= self.limit:
            # Most reads of a token stream are exactly one line.
            line = chunk.strip()
            return [line] if line else []
        if self.too_long:
            return []
        first, *rest = chunk.split(b"\n")
        lines = []
        for piece in rest:
            self._hold(first)
            if self.too_long:
                return lines
            lines += self._line()
            first = piece
        self._hold(first)
        return lines

    def close(self) -> list[bytes]:
        """Return the last line, if no line feed followed it; the stream has ended."""
        return self._line()

    def _hold(self, piece: bytes) -> None:
        """Buffer a piece of a line whose end is still to come."""
        self._held += piece
        if len(self._held) >= self.limit:
            self.too_long = True
            self._held.clear()
        self.growing = len(self._held) > 0
        self.idle = not self.growing and not self.too_long

    def _line(self) -> list[bytes]:
        line = bytes(self._held).strip()
        self._held.clear()
        self.growing = False
        self.idle = not self.too_long
        return [line] if line else []

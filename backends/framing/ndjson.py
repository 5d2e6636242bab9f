"""Cut newline-delimited JSON into lines without any I/O: bytes in, in any pieces; whole lines out.

Rules:
- The lines do not depend on how the bytes are split.
- A line ends with a line feed, or with a carriage return and a line feed. Blank lines are skipped.
- After a line longer than the limit nothing is read or buffered.
"""

from __future__ import annotations

LIMIT = 8 << 20
"""The most bytes of one line. The last line of Ollama can list every token of a long context."""


class Framer:
    """Cuts a byte stream into its lines.

    `idle` is true between two lines, when nothing is buffered; `too_long` once a line has exceeded `limit` bytes.
    """

    __slots__ = ("_held", "_size", "idle", "limit", "too_long")

    def __init__(self, limit: int = LIMIT) -> None:
        self.idle: bool = True
        self.too_long: bool = False
        self.limit: int = limit
        self._held: list[bytes] = []
        self._size: int = 0

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
        self._size += len(piece)
        if self._size >= self.limit:
            self.too_long = True
            self._held.clear()
        elif piece:
            self._held.append(piece)
        self.idle = not self._held and not self.too_long

    def _line(self) -> list[bytes]:
        line = b"".join(self._held).strip()
        self._held.clear()
        self._size = 0
        self.idle = not self.too_long
        return [line] if line else []

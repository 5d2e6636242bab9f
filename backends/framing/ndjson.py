"""Newline-delimited JSON, sans I/O: bytes in any pieces, whole lines out.

Rules:
- Any split of the same bytes gives the same lines.
- A line ends with a line feed; a carriage return before it belongs to the end. Lines of white space only say nothing.
- Past a line longer than the limit nothing is read, and nothing is buffered.
"""

from __future__ import annotations

LIMIT = 8 << 20
"""Bytes one line may have. Ollama's last line can hold every token of a long context as a number."""


class Framer:
    """Cuts a byte stream into its lines.

    `idle`: the stream stands between two lines and nothing is held. `too_long`: a line grew beyond the limit.
    """

    __slots__ = ("_held", "_size", "idle", "limit", "too_long")

    def __init__(self, limit: int = LIMIT) -> None:
        self.idle: bool = True
        self.too_long: bool = False
        self.limit: int = limit
        self._held: list[bytes] = []
        self._size: int = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return every line they complete."""
        if self.idle and chunk.find(b"\n") == len(chunk) - 1 and len(chunk) <= self.limit:
            # One line, whole: what most reads of a token stream are.
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
        """The stream ended: return the last line if no line feed followed it."""
        return self._line()

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of the line that is coming."""
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

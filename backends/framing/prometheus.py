"""Keep the wanted lines of a metrics page without any I/O: bytes in, in any pieces; the lines of wanted samples out.

Rules:
- What is kept does not depend on how the bytes are split.
- The work of one piece grows with its size alone, and the memory with the lines that are kept. A page of a busy engine
  has tens of thousands of lines, of which some hundred are wanted.
- After more than `limit` bytes of wanted lines, or of one line, nothing is kept.
"""

from __future__ import annotations

LIMIT = 4 << 20
"""Bytes of wanted lines, unless something else is said: those of a hundred ranks with all their histograms are half of
it."""


class Sieve:
    """Keeps the lines of samples with certain names; `too_long` once they are more than `limit` bytes."""

    __slots__ = ("_held", "_kept", "_limit", "_names", "_size", "too_long")

    def __init__(self, names: frozenset[bytes], limit: int = LIMIT) -> None:
        self.too_long = False
        self._names = names
        self._limit = limit
        self._held = bytearray()
        """The last line, whose end is still to come."""
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Process the next bytes of the page."""
        if self.too_long:
            return
        first, *lines = data.split(b"\n")
        self._held += first
        if lines:
            last = lines.pop()
            self._take([bytes(self._held), *lines])
            self._held = bytearray(last)
        if self._size + len(self._held) > self._limit:
            self.too_long = True
            self._held.clear()
            self._kept.clear()

    def close(self) -> bytes:
        """Return the wanted lines; the page has ended."""
        self.feed(b"\n")
        return b"".join(self._kept)

    def _take(self, lines: list[bytes]) -> None:
        names = self._names
        for line in lines:
            at = line.find(b"{")
            if at < 0:
                at = line.find(b" ")
            if line[:at] in names:
                self._kept.append(line + b"\n")
                self._size += len(line) + 1

"""How many values a JSON text has, found out piece by piece at the speed of a copy.

Rules:
- A value is an item of a list or a member of an object: commas and opening brackets are counted, outside of strings.
- Nothing is checked but the encoding: a text that is no JSON gets some number, and is refused when it is read.
- The work on a piece grows with its bytes only, so whoever feeds small pieces can do something else in between.
"""

from __future__ import annotations

import codecs


class Structure:
    """Counts the values of a text that is fed in pieces, and checks that it is UTF-8."""

    def __init__(self) -> None:
        self.values: int = 0
        """Values that have begun so far."""
        self._inside: bool = False
        self._escaped: bool = False
        """Whether the next byte belongs to an escape that has begun in the last piece."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes) -> None:
        """Count the values of the next bytes. Raises UnicodeDecodeError where they are not UTF-8."""
        if not piece.isascii() or self._utf8.getstate()[0]:
            self._utf8.decode(piece)
        if self._escaped:
            piece = piece[1:]
        left = piece.rstrip(b"\\")
        self._escaped = (len(piece) - len(left)) % 2 == 1
        if self._inside and left.find(b'"') < 0:
            return
        if b"\\" in left:
            left = left.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = left.split(b'"')
        outside = b"".join(parts[int(self._inside) :: 2])
        self.values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if len(parts) % 2 == 0:
            self._inside = not self._inside

    def end(self) -> None:
        """Take note that the text is over. Raises UnicodeDecodeError where it ends within a character."""
        self._utf8.decode(b"", final=True)

"""Recognise a read that is exactly one chunk of a chunked body, so that no parser has to look at it.

Rules:
- What is not certainly one whole chunk is left to the parser: extensions, the last chunk, a bad size.
"""

from __future__ import annotations

from typing import Final

CR: Final = 13
LF: Final = 10
HEX: Final = b"0123456789abcdefABCDEF"
SIZES: Final = 4096
"""Most entries of `_sizes`."""

_sizes: dict[bytes, int] = {}
"""A cache of parsed chunk sizes by their hexadecimal digits."""


def payload_of_one(data: bytes) -> int:
    """Return the index of the payload if `data` is exactly one chunk of a chunked body and not the last one, else 0."""
    line = data.find(b"\r\n", 0, 8)
    if line < 1:
        return 0
    digits = data[:line]
    size = _sizes.get(digits, -1)
    if size < 0:
        if digits.strip(HEX):
            return 0
        size = int(digits, 16)
        if len(_sizes) >= SIZES:
            _sizes.clear()
        _sizes[digits] = size
    start = line + 2
    if size == 0 or start + size + 2 != len(data) or data[-1] != LF or data[-2] != CR:
        return 0
    return start

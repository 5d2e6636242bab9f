"""Versions of engines, compared as far as they are numbers.

Rules:
- What follows the numbers (`rc1`, `.post1`, `+cu128`) makes no difference: a candidate counts as its version.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

Version = tuple[int, ...]

_NUMBERS = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,5})")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def parsed(text: str) -> Version | None:
    """Return the numbers a version begins with, without zeros at the end; None where it begins with none."""
    found = _NUMBERS.match(text)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    while numbers[-1:] == [0]:
        numbers.pop()
    return tuple(numbers)


def told(body: bytes) -> str:
    """Return the member `version` of an answer. Raise ValueError where there is none."""
    version = _decode(body).get("version")
    if not isinstance(version, str):
        raise ValueError("no version is told")
    return version

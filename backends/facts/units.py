"""Durations, sizes and percentages as the config file has them: "1m30s" is 90.0 seconds, "10MiB" is 10485760 bytes.

Rules:
- This module is in `backends` because the launch options of engines have durations too.
- A duration needs its unit: a bare number is an error that says what to write. A bare whole number is a size in bytes.
- Errors say what was expected and never repeat the value, which may come from a secret; the reader of the file adds it
  where it is safe.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

_DURATION = re.compile(
    r"(?:(?P<h>[0-9]{1,9}(?:\.[0-9]{1,9})?)h)?(?:(?P<m>[0-9]{1,9}(?:\.[0-9]{1,9})?)m(?!s))?"
    r"(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:(?P<ms>[0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?"
)
_SIZE = re.compile(r"(?P<count>[0-9]{1,15})(?P<unit>[KMG]i?B|B)?")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

MODEL_NAME = r"[A-Za-z0-9._:/@+-]{1,256}"
"""The pattern of a model's public name: safe in a header, a metric, a shell and on a terminal."""

LONGEST = 720 * 3600.0
"""The longest duration in seconds, 30 days: longer than any useful one, and safe for every timer."""
LARGEST = 2**50
"""The largest size in bytes, 1 PiB."""


def expected(what: str, hint: str | None = None) -> PydanticCustomError:
    """Return the error for a value that is not `what`; `hint` says what to write instead."""
    return PydanticCustomError("expected", "expected {what}", {"what": what, "hint": hint})


def seconds(value: object) -> float:
    """Return the seconds in a duration such as "250ms", "30s", "5m", "1h" or "1m30s". Raise for anything else."""
    what = "a duration such as 30s"
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise expected(what, f"write {value}s" if value >= 0 else None)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not value or not match:
        bare = isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value)
        raise expected(what, f"write {value}s" if bare else None)
    total = sum(float(count) * _SECONDS[unit] for unit, count in match.groupdict().items() if count)
    if total > LONGEST:
        raise expected("a duration of at most 720h")
    return round(total, 6)


def _wait(value: object, info: ValidationInfo) -> float:
    """Return seconds, zero or more. Code may pass a number; the file, which is validated as JSON, may not."""
    if (
        info.mode == "python"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= 0
    ):
        return float(value)
    return seconds(value)


def _duration(value: object, info: ValidationInfo) -> float:
    """Return seconds, as `_wait`, but more than zero."""
    total = _wait(value, info)
    if not total:
        raise expected("a duration longer than zero")
    return total


def size(value: object) -> int:
    """Return the bytes in a size such as "512KiB", "64KB" (1000 bytes each) or 4096. Raise for anything else."""
    what = "a size such as 10MiB"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise expected(what, _spelled(text) if isinstance(text, str) else None)
    count = int(match["count"]) * _BYTES[match["unit"] or "B"]
    if not 0 < count <= LARGEST:
        raise expected("a size from 1 byte to 1048576GiB")
    return count


def _spelled(text: str) -> str | None:
    """Return how to write a size whose unit has the wrong case or form ("10mb", "10 MiB", "10M")."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([kmg]i?b?|b)", text.strip(), re.IGNORECASE)
    if not match:
        return None
    unit = match[2].upper().rstrip("B").replace("I", "i") + "B"
    return f"write {match[1]}{unit}"


def share(value: object) -> float:
    """Return the fraction in a percentage such as "20%". Raise for anything else."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%", value) if isinstance(value, str) else None
    if not match or float(match[1]) > 100:
        bare = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100
        raise expected("a percentage such as 20%", f"write {value}%" if bare else None)
    return float(match[1]) / 100


def _size_or_share(value: object) -> int | float:
    """Return the bytes of a size, or the fraction of a percentage, which is a float."""
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    try:
        return share(value) if isinstance(value, str) and value.endswith("%") else size(value)
    except PydanticCustomError:
        raise expected("a size such as 20GiB, or a percentage such as 80%") from None


def _idle(value: object, info: ValidationInfo) -> float:
    """Return seconds, as `_duration`; infinity for "never"."""
    if value in ("never", math.inf):
        return math.inf
    try:
        return _duration(value, info)
    except PydanticCustomError:
        raise expected("a duration such as 15m, or never") from None


_AMOUNT = r"[0-9]+(\.[0-9]+)?"
_DURATION_PATTERN = rf"^(({_AMOUNT}h)?({_AMOUNT}m)?({_AMOUNT}s)?({_AMOUNT}ms)?|.*\$\{{.*)$"

Wait = Annotated[
    float,
    PlainValidator(_wait),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN, "minLength": 2}),
]
"""Seconds, zero or more; a duration with a unit in the file."""

Duration = Annotated[
    float,
    PlainValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN, "minLength": 2}),
]
"""Seconds, more than zero; a duration with a unit in the file."""

Size = Annotated[
    int,
    PlainValidator(size),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "pattern": r"^([0-9]+([KMG]i?B|B)?|.*\$\{.*)$",
            "minimum": 1,
        }
    ),
]
"""Bytes, at least one; a size with a unit, or a whole number of bytes, in the file."""

SizeOrShare = Annotated[
    int | float,
    PlainValidator(_size_or_share),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "pattern": r"^([0-9]+([KMG]i?B|B)?|[0-9]{1,3}(\.[0-9]{1,4})?%|.*\$\{.*)$",
            "minimum": 1,
        }
    ),
]
"""Bytes, or a fraction from 0 to 1 of all there is, which is a float; a size or a percentage in the file."""

IdleTime = Annotated[
    float,
    PlainValidator(_idle),
    WithJsonSchema({"type": "string", "pattern": rf"{_DURATION_PATTERN}|^never$", "minLength": 2}),
]
"""Seconds, more than zero, or infinity; a duration with a unit, or `never`, in the file."""

Share = Annotated[
    float,
    PlainValidator(lambda value: value if isinstance(value, float) and 0 <= value <= 1 else share(value)),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9]{1,3}(\.[0-9]{1,4})?%|.*\$\{.*)$"}),
]
"""A fraction from 0 to 1; a percentage in the file."""

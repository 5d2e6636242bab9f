"""Requests that ask for nothing: with them Ollama's clients have a model loaded or unloaded.

Rules:
- The engine is asked for as little as possible, so that one which loads models when they are asked for loads this one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from backends.base import Operation, Request
from backends.surfaces.places import wrong
from backends.surfaces.surface import InvalidRequest

WORD: Final = "."
"""What is asked instead of nothing."""
_NONE: Final = msgspec.Raw(b"")
_NOTHING: Final = (b"", b"null", b'""', b"[]")
_SHORT: Final = 32
"""Bytes of a member that are looked at: with that many it is not empty."""
_ABOUT: Final[Mapping[Operation, str]] = {
    Operation.OLLAMA_CHAT: "messages",
    Operation.OLLAMA_GENERATE: "prompt",
    Operation.OLLAMA_EMBED: "input",
    Operation.OLLAMA_EMBEDDINGS: "prompt",
}
"""The member that a request is about."""
_MEMBER: Final = b'"keep_alive"'
_PARTS: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)").findall
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_AGES: Final = 1e9
"""Seconds, about thirty years, from which on a duration counts as for ever."""
_SPAN: Final = re.compile(r"[-+]?(0|([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h))+").fullmatch
_ZERO: Final = re.compile(r"[-+]?(0|0*\.?0*(ns|us|µs|ms|s|m|h))+").fullmatch


class _Head(msgspec.Struct):
    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    keep_alive: Any = None


_decode: Final = msgspec.json.Decoder(_Head).decode


def done_reason(request: Request) -> str:
    """Return what a request that asks for nothing is for, `load` or `unload`; empty where it asks for something."""
    head = _decode(request.body)
    about: msgspec.Raw = getattr(head, _ABOUT[request.operation])
    if bytes(memoryview(about)[:_SHORT]).translate(None, b" \t\r\n") not in _NOTHING:
        return ""
    return "unload" if _is_zero(head.keep_alive) else "load"


def kept(value: Any) -> Any:
    """Return `keep_alive`: seconds, or a duration such as `10m`. Raise InvalidRequest where it is none of these."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong("keep_alive", "expected seconds, or a duration such as 10m")
    if isinstance(value, str) and not _SPAN(value):
        message = f"time: invalid duration {msgspec.json.encode(value[:64]).decode()}"
        raise InvalidRequest(message, param="keep_alive")
    return value


def staying(request: Request) -> float | None:
    """Return for how many seconds a request wants its model kept, infinite for ever; None where it does not say.

    Raise InvalidRequest where what it says is no duration.
    """
    value = _decode(request.body).keep_alive if _MEMBER in request.body else None
    if value is None:
        return None
    found = kept(value)
    seconds = _seconds(found) if isinstance(found, str) else found
    return math.inf if seconds < 0 or seconds > _AGES else float(seconds)


def _seconds(duration: str) -> float:
    sign = -1.0 if duration.startswith("-") else 1.0
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _PARTS(duration))


def _is_zero(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_ZERO(value))
    return value is not None and not isinstance(value, bool) and value == 0

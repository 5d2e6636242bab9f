"""Ollama's `options`, `format`, `think` and `keep_alive` as members of OpenAI's requests.

Rules:
- An option that only shapes how Ollama runs a model (`num_ctx`, `num_gpu`), and one that nobody knows, is left out and
  named: Ollama takes these from any client too.
- No limit is said as none at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from backends.surfaces.chat import by_schema
from backends.surfaces.ollama import idle
from backends.surfaces.places import Members, optional
from backends.surfaces.surface import InvalidRequest

_NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p",),
    # vLLM's name and llama.cpp's.
    "repeat_penalty": ("repetition_penalty", "repeat_penalty"),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
}
_WHOLE: Final = ("top_k", "seed")
_EFFORTS: Final[Mapping[str, str]] = {"low": "low", "medium": "medium", "high": "high", "max": "high"}
_SHOWN: Final = 64
"""Characters of a client's words that an error shows."""
WISHES: Final = frozenset(
    (
        *("chat_template_kwargs", "reasoning_effort", "keep_alive"),
        *("repeat_penalty", "repetition_penalty", "top_k", "min_p", "typical_p", "presence_penalty"),
        "frequency_penalty",
    )
)
"""Members that are left out where an engine refuses them: to Ollama an option that it does not know is no mistake."""


def sampling(body: Members, dropped: list[str]) -> Members:
    """Return the parameters that `options` ask for; add to `dropped` what cannot be said."""
    made: Members = {}
    for name, value in (optional(body, "options", "", dict, "an object") or {}).items():
        if value is None:
            continue
        if name in _NUMBERS:
            made |= dict.fromkeys(_NUMBERS[name], _number(name, value))
        elif name in _WHOLE:
            made[name] = _whole(name, value)
        elif name == "num_predict":
            if _whole(name, value) >= 0:
                made["max_tokens"] = value
        elif name == "stop":
            made["stop"] = _texts(name, value)
        else:
            dropped.append(name)
    return made


def thinking(body: Members) -> Members:
    """Return what switches thinking on or off, in the form that templates read, and how hard to think."""
    wish = body.get("think")
    if wish is None or wish == "":
        return {}
    if isinstance(wish, bool):
        return {"chat_template_kwargs": {"enable_thinking": wish}}
    if not isinstance(wish, str) or wish not in _EFFORTS:
        expected = '(must be "high", "medium", "low", "max", true, or false)'
        raise InvalidRequest(f"invalid think value: {quoted(str(wish))} {expected}", param="think")
    return {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": _EFFORTS[wish]}


def form(body: Members) -> Members:
    """Return the form that the answer shall have: any JSON, or that of a schema."""
    wish = body.get("format")
    if wish is None or wish == "":
        return {}
    if wish == "json":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(wish, dict):
        said = quoted(msgspec.json.encode(wish).decode())
        raise InvalidRequest(
            f'invalid format: {said}; expected "json" or a valid JSON Schema object', param="format"
        )
    return {"response_format": by_schema(wish)}


def quoted(said: str) -> str:
    """Return what a client sent as Ollama shows it in errors: within quotes, others escaped, cut where it is long."""
    return msgspec.json.encode(said[:_SHOWN]).decode()


def staying(body: Members) -> Members:
    """Return for how long the engine is asked to keep the model in memory."""
    value = body.get("keep_alive")
    return {} if value is None else {"keep_alive": idle.kept(value)}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mistyped(name, "float32")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise _mistyped(name, "integer")
    return int(value)


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _mistyped(name, "array")
    return texts


def _mistyped(name: str, kind: str) -> InvalidRequest:
    """Return the error for an option of another type, in Ollama's words for its types."""
    return InvalidRequest(f'option "{name}" must be of type {kind}', param=f"options.{name}")

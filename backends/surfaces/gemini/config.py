"""Google's `generationConfig` as members of OpenAI's chat.

Rules:
- What asks for something else than text is refused: an answer in words would be no answer to it.
- A number of tokens to think with is told to no engine: it is named as left out, but for 0, which means not to think.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from backends.surfaces.chat import by_schema
from backends.surfaces.gemini.fields import inner
from backends.surfaces.gemini.schema import json_schema
from backends.surfaces.places import Members, items, optional, wrong

_PLACE: Final = "generationConfig"
_NUMBERS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "topP": "top_p",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
_WHOLE: Final[Mapping[str, str]] = {
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "seed": "seed",
}
_READ: Final = frozenset(
    {
        *(*_NUMBERS, *_WHOLE, "candidateCount", "stopSequences", "responseMimeType", "responseSchema"),
        *("responseJsonSchema", "responseLogprobs", "logprobs", "thinkingConfig", "responseModalities"),
    }
)
_EFFORTS: Final[Mapping[str, str]] = {
    "MINIMAL": "low",
    "LOW": "low",
    "MEDIUM": "medium",
    "HIGH": "high",
    "XHIGH": "high",
}
_JSON: Final = "application/json"


def sampling(body: Members, choices: int, dropped: list[str]) -> Members:
    """Return the parameters that a request asks for; add to `dropped` what cannot be said."""
    config = inner(body, _PLACE, "") or {}
    made: Members = {"n": choices} if choices > 1 else {}
    for name, meant in _NUMBERS.items():
        if config.get(name) is not None:
            made[meant] = _number(config, name)
    for name, meant in _WHOLE.items():
        if config.get(name) is not None:
            made[meant] = _whole(config, name)
    if stops := items(config, "stopSequences", _PLACE):
        made["stop"] = stops
    if optional(config, "responseLogprobs", _PLACE, bool, "true or false"):
        made["logprobs"] = True
        if config.get("logprobs") is not None:
            made["top_logprobs"] = _whole(config, "logprobs")
    modes = [str(mode).upper() for mode in items(config, "responseModalities", _PLACE)]
    if modes and "TEXT" not in modes:
        raise wrong(f"{_PLACE}.responseModalities", "this model's engines answer with text")
    if set(modes) - {"TEXT"}:
        dropped.append("responseModalities")
    dropped += [name for name, value in config.items() if name not in _READ and value]
    return made | _form(config) | _thinking(config, dropped)


def shows_thoughts(body: Members) -> bool:
    """Tell whether the client wants to read what the model thinks."""
    config = inner(body, _PLACE, "") or {}
    return (inner(config, "thinkingConfig", _PLACE) or {}).get("includeThoughts") is True


def _form(config: Members) -> Members:
    """Return the form that the answer shall have."""
    kind = optional(config, "responseMimeType", _PLACE, str, "a text") or ""
    schema = optional(config, "responseJsonSchema", _PLACE, dict, "an object")
    if schema is None:
        given = optional(config, "responseSchema", _PLACE, dict, "an object")
        schema = None if given is None else json_schema(given, f"{_PLACE}.responseSchema")
    if kind in ("", "text/plain"):
        if schema is not None:
            raise wrong(f"{_PLACE}.responseMimeType", f"an answer in a schema's form is {_JSON}")
        return {}
    if kind != _JSON:
        raise wrong(f"{_PLACE}.responseMimeType", f"expected text/plain or {_JSON}")
    return {"response_format": {"type": "json_object"} if schema is None else by_schema(schema)}


def _thinking(config: Members, dropped: list[str]) -> Members:
    """Return what switches thinking on or off, in the form that templates read, and how hard to think."""
    wish = inner(config, "thinkingConfig", _PLACE) or {}
    at = f"{_PLACE}.thinkingConfig"
    made: Members = {}
    budget = optional(wish, "thinkingBudget", at, int, "a whole number")
    level = (optional(wish, "thinkingLevel", at, str, "a text") or "").upper()
    if level and level != "THINKING_LEVEL_UNSPECIFIED":
        if level not in _EFFORTS:
            raise wrong(f"{at}.thinkingLevel", f"expected one of {', '.join(_EFFORTS)}")
        made = {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": _EFFORTS[level]}
    if budget is not None:
        made["chat_template_kwargs"] = {"enable_thinking": budget != 0}
        dropped += ["thinkingBudget"] if budget > 0 else []
    return made


def _number(config: Members, name: str) -> Any:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(f"{_PLACE}.{name}", "expected a number")
    return value


def _whole(config: Members, name: str) -> int:
    value = _number(config, name)
    if abs(value) >= 1 << 63 or value != int(value):
        raise wrong(f"{_PLACE}.{name}", "expected a whole number")
    return int(value)

"""Read JSON that a token limit has cut: the arguments of a tool call, mostly.

Rules:
- What came before the cut is kept, the beginning of a text too. A key without a value is dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pydantic_core


class _Function(msgspec.Struct):
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_completion = msgspec.json.Decoder(_Completion)


def readable(text: str) -> Any:
    """Return what JSON says as far as it goes; None where it says nothing."""
    try:
        return pydantic_core.from_json(text, allow_partial="trailing-strings")
    except (ValueError, RecursionError):
        return None


def is_whole(text: str) -> bool:
    """Return whether a text is JSON; the arguments of a call that a limit has cut are not."""
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def cut_told(body: bytes) -> bytes:
    """Return a whole chat completion in which a choice whose call was cut ends with `length`.

    Raise ValueError if it cannot be read.
    """
    said = _completion.decode(body)
    cut = [
        choice.finish_reason == "tool_calls"
        and not all(is_whole(call.function.arguments) for call in choice.message.tool_calls or ())
        for choice in said.choices
    ]
    if not any(cut):
        return body
    answer = msgspec.json.decode(body)
    for choice, is_cut in zip(answer["choices"], cut, strict=True):
        if is_cut:
            choice["finish_reason"] = "length"
    return msgspec.json.encode(answer)

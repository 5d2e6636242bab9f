"""The events of OpenAI's chat and completion streams as msgspec structs.

They stand apart from `stream.py`, which uses them, because that module is compiled with mypyc and structs cannot be.
Members whose type differs between engines are `Any`: what matters is only whether there is something in them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Delta(msgspec.Struct):
    """What an event adds to a chat message."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class Choice(msgspec.Struct):
    """What an event says of one choice."""

    index: int | None = 0
    delta: Delta | None = None
    text: Any = None
    finish_reason: str | None = None

    def speaks(self) -> bool:
        """Return whether it carries some of the answer."""
        if self.text:
            return True
        said = self.delta
        return said is not None and bool(
            said.content
            or said.reasoning_content
            or said.reasoning
            or said.tool_calls
            or said.refusal
            or said.function_call
        )


class Event(msgspec.Struct):
    """One event of a stream."""

    object: Any = None
    model: msgspec.Raw = msgspec.Raw()
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


decode_event = msgspec.json.Decoder(Event).decode

SILENT = (b"", b"null")
"""Payloads without meaning. llama.cpp b11549 sends `null` while a list of prompts waits for its slots."""


def is_error(error: object, kind: object) -> bool:
    """Return whether an object is an error by its members `error` and `object`: nested, or flat."""
    return bool(error) or kind == "error"

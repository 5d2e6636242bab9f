"""The events of OpenAI's chat and completion streams as msgspec structs.

They stand apart from `stream.py`, which uses them, because that module is compiled with mypyc and structs cannot be.
Members whose type differs between engines are `Any`: what matters is only whether there is something in them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialect import content


class Choice(msgspec.Struct):
    """What an event says of one choice."""

    index: int | None = None
    delta: dict[str, Any] | None = None
    text: Any = None
    logprobs: Any = None
    token_ids: Any = None
    finish_reason: str | None = None

    def speaks(self) -> bool:
        """Return whether it carries some of the answer."""
        return any(content.holds(getattr(self, name)) for name in content.CHOICE)


class Event(msgspec.Struct):
    """One event of a stream."""

    object: Any = None
    model: msgspec.Raw = msgspec.Raw()
    choices: list[Choice] | None = None
    usage: Any = None
    timings: Any = None
    """What llama.cpp tells beside the usage: tokens from its cache, and of its draft model."""
    error: Any = None
    prompt_progress: Any = None
    """How much of the prompt llama.cpp has read, where it was asked to tell."""


_decode = msgspec.json.Decoder(Event).decode


def decode_event(payload: bytes) -> Event:
    """Return the event in a payload. Raise ValueError or RecursionError if it is not JSON of that shape."""
    check_text(payload)
    return _decode(payload)


def check_text(json: bytes) -> None:
    """Raise ValueError if JSON is not UTF-8: of members that are skipped the decoder does not notice it."""
    if not json.isascii():
        json.decode()


SILENT = (b"", b"null")
"""Payloads without meaning. llama.cpp b11549 sends `null` while a list of prompts waits for its slots."""


def is_error(error: object, kind: object) -> bool:
    """Return whether an object is an error by its members `error` and `object`: nested, or flat."""
    return bool(error) or kind == "error"

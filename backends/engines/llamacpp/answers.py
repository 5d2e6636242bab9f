"""Completions of llama.cpp with log probabilities, which it tells in the form of chats.

Facts are those of llama.cpp b11549, run, streamed and not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Engine, Request
from backends.dialect.logprobs import Token, of_text
from backends.dialect.stream import EventStream
from backends.framing import sse


class _Told(msgspec.Struct):
    content: list[Token] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    logprobs: _Told | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None


_answer = msgspec.json.Decoder(_Answer)
_members = msgspec.json.Decoder(dict[str, Any])
MARK = b'"logprobs":{"content":'


def of_completions(body: bytes, offsets: dict[int, int]) -> bytes:
    """Return a completion, or an event of one, whose log probabilities have the form of completions.

    `offsets` holds how many characters each choice has had so far, by index, and is extended. Raise ValueError where
    the body is no completion.
    """
    told = _answer.decode(body)
    answer = _members.decode(body)
    for read, choice in zip(told.choices or (), answer.get("choices") or (), strict=False):
        tokens = read.logprobs.content if read.logprobs is not None else None
        if tokens:
            index = read.index or 0
            before = offsets.get(index, 0)
            choice["logprobs"] = of_text(tokens, before)
            offsets[index] = before + sum(len(token.token) for token in tokens)
    return msgspec.json.encode(answer)


class TextStream(EventStream):
    """Watches a stream of a completion with log probabilities."""

    __slots__ = ("_offsets",)

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__(engine, request)
        self._offsets: dict[int, int] = {}

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        if MARK not in payload:
            return super()._decode(payload, event)
        try:
            payload = of_completions(payload, self._offsets)
        except (ValueError, RecursionError):
            # What is wrong with it is told where events are read.
            return super()._decode(payload, event)
        return super()._decode(payload, sse.encode(payload))

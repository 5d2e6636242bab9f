"""A stream as one whole answer: for clients that did not ask for a stream, of engines that are better asked for one.

Rules:
- Pure: the bytes of an OpenAI stream in (whole events, as a decoder gives them out), the bytes of the completion out.
- Pieces of text are joined, lists of log probabilities are put one after the other, tool calls are put together by
  their index; of everything else the last word counts, so that what the gateway does not know comes along.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.base import Operation

Members = dict[str, Any]

_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text", "arguments"})
"""Members whose pieces make one text."""
_SEPARATOR = b"\n\n"

_member = msgspec.json.Decoder(Members)


def completion(operation: Operation, stream: bytes) -> bytes:
    """The chat completion or completion that a stream adds up to. Raises ValueError where it holds no choices."""
    whole: Members = {}
    choices: dict[int, Members] = {}
    for event in _payloads(stream):
        for choice in event.pop("choices", None) or ():
            _add(choices.setdefault(choice.get("index", 0), {}), choice)
        whole.update({name: value for name, value in event.items() if value is not None})
    if not choices:
        raise ValueError("the engine's stream has no choices")
    chat = operation is Operation.CHAT
    whole["object"] = "chat.completion" if chat else "text_completion"
    whole["choices"] = [_message(choices[index]) if chat else choices[index] for index in sorted(choices)]
    return msgspec.json.encode(whole)


def _payloads(stream: bytes) -> Iterable[Members]:
    for event in stream.split(_SEPARATOR):
        payload = event.removeprefix(b"data: ")
        if payload and payload != b"[DONE]":
            yield _member.decode(payload)


def _add(known: Members, piece: Members) -> None:
    """Add what a later event says to what the earlier ones said."""
    for name, value in piece.items():
        before = known.get(name)
        if before is None and isinstance(value, dict):
            before = known[name] = {}
        if name == "tool_calls" and isinstance(value, list):
            calls = known[name] = before or {}
            for index, call in _by_index(value).items():
                _add(calls.setdefault(index, {}), call)
        elif before is None:
            known[name] = value
        elif isinstance(before, str) and isinstance(value, str) and name in _TEXTS:
            known[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _add(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            before.extend(value)
        elif value is not None:
            known[name] = value


def _by_index(calls: list[Members]) -> dict[int, Members]:
    return {call.get("index", place): dict(call) for place, call in enumerate(calls)}


def _message(choice: Members) -> Members:
    """A choice of a chat completion: what were deltas is a message."""
    message = {"role": "assistant", "content": None, **choice.pop("delta", {})}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [_without_index(calls[index]) for index in sorted(calls)]
    return {**choice, "message": message}


def _without_index(call: Members) -> Members:
    return {name: value for name, value in call.items() if name != "index"}

"""llama.cpp, when a tool must be called and the model's template knows none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Failure, Kind, Operation, Reply, Request
from backends.engines.llamacpp.engine import LlamaCpp

ENGINE = LlamaCpp()
ANSWERS: dict[Operation, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    Operation.CHAT: (
        {"choices": [{"index": 0, "message": {"content": "11434"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "message": {"tool_calls": [{"id": "a"}]}, "finish_reason": "tool_calls"}]},
        {"choices": [{"index": 0, "message": {"content": "114"}, "finish_reason": "length"}]},
    ),
    Operation.MESSAGES: (
        {"content": [{"type": "text", "text": "11434"}], "stop_reason": "end_turn"},
        {"content": [{"type": "tool_use", "id": "a"}], "stop_reason": "tool_use"},
        {"content": [{"type": "text", "text": "114"}], "stop_reason": "max_tokens"},
    ),
    Operation.RESPONSES: (
        {"object": "response", "status": "completed", "output": [{"type": "message"}]},
        {"object": "response", "status": "completed", "output": [{"type": "function_call"}]},
        {"object": "response", "status": "incomplete", "output": [{"type": "message"}]},
    ),
}
"""Of each API an answer in words, one with a call, and one that its limit has cut."""
FORCED: list[object] = [
    "required",
    {"type": "any"},
    {"type": "tool", "name": "f"},
    {"type": "function", "function": {"name": "f"}},
]
FREE: list[object] = [None, "auto", "none", {"type": "auto"}]


def request(operation: Operation, choice: object, *, stream: bool = False, tools: int = 1) -> Request:
    body = {"model": "public", "tools": [{"name": "f"}] * tools, "tool_choice": choice}
    return Request(operation, json.dumps(body).encode(), "public", stream)


def read(asked: Request, answer: dict[str, Any]) -> Reply | Failure:
    body = json.dumps({"model": "demo", **answer}, separators=(",", ":")).encode()
    return ENGINE.reply(asked, "demo", ((b"content-type", b"application/json"),), body)


@pytest.mark.parametrize("operation", ANSWERS)
def test_an_answer_in_words_is_none_where_a_tool_must_be_called(operation: Operation) -> None:
    words, called, cut = ANSWERS[operation]
    for choice in FORCED:
        found = read(request(operation, choice), words)
        assert isinstance(found, Failure)
        assert (found.kind, found.param) == (Kind.UNSUPPORTED, "tool_choice")
        assert isinstance(read(request(operation, choice), called), Reply)
        assert isinstance(read(request(operation, choice), cut), Reply)
        assert isinstance(read(request(operation, choice, tools=0), words), Reply)
    for choice in FREE:
        assert isinstance(read(request(operation, choice), words), Reply)


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"finish_reason": reason, "index": 0, "delta": delta}
    body = {"choices": [choice], "object": "chat.completion.chunk", "model": "demo"}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


CALL = {
    "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
}


@pytest.mark.parametrize(
    ("choice", "deltas", "reason", "fails"),
    [
        ("required", [{"content": "11"}, {"content": "434"}], "stop", True),
        ("required", [{"content": "11"}, CALL], "tool_calls", False),
        ("required", [CALL], "stop", False),
        ("required", [{"content": "11"}], "length", False),
        ("auto", [{"content": "11"}], "stop", False),
    ],
)
def test_a_stream_in_words_fails_at_its_end(
    choice: str, deltas: list[dict[str, Any]], reason: str, *, fails: bool
) -> None:
    decoder = ENGINE.decoder(request(Operation.CHAT, choice, stream=True), "demo")
    for delta in deltas:
        decoder.feed(chunk(delta))
    decoder.feed(chunk({}, reason))
    assert decoder.content == len(deltas)
    if not fails:
        decoder.feed(b"data: [DONE]\n\n")
        assert decoder.finished and decoder.failure is None
    else:
        assert decoder.failure is not None and decoder.failure.kind is Kind.UNSUPPORTED

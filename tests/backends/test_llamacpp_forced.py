"""llama.cpp, when a tool must be called and the model's template knows none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.base import Failure, Kind, Operation, Reply, Request, StreamDecoder
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


def blocks(payloads: list[dict[str, Any]]) -> list[bytes]:
    """Return events that have names, which are their types."""
    events = [
        (event["type"].encode(), json.dumps(event, separators=(",", ":")).encode()) for event in payloads
    ]
    return [b"event: %b\ndata: %b\n\n" % event for event in events]


WORDS = [chunk({"content": "11"}), chunk({"content": "434"})]
THOUGHT = chunk({"reasoning_content": "Hm."})
CALL = chunk(
    {
        "tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]
    }
)
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2},"model":"demo"}\n\n'
BEGUN = {"type": "message_start", "message": {"model": "demo", "role": "assistant", "content": []}}
OF_A_MESSAGE = blocks(
    [
        BEGUN,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "11"}},
        {"type": "content_block_stop", "index": 0},
    ]
)
ENDED, STOPPED = (
    blocks([{"type": "message_delta", "delta": {"stop_reason": reason}}, {"type": "message_stop"}])
    for reason in ("end_turn", "max_tokens")
)


def streamed(operation: Operation, *, usage: bool = False) -> StreamDecoder:
    asked = request(operation, "required", stream=True)
    return ENGINE.decoder(msgspec.structs.replace(asked, include_usage=usage), "demo")


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(
    ("operation", "events"),
    [
        (Operation.CHAT, [*WORDS, chunk({}, "stop"), USAGE, DONE]),
        (Operation.CHAT, [*WORDS, chunk({}, "stop"), DONE]),
        (Operation.MESSAGES, [*OF_A_MESSAGE, *ENDED]),
    ],
)
def test_of_a_stream_in_words_nothing_is_sent(
    operation: Operation, events: list[bytes], *, usage: bool
) -> None:
    decoder = streamed(operation, usage=usage)
    sent = b"".join(decoder.feed(event) for event in events if decoder.failure is None)
    assert b"11" not in sent and decoder.content == 0 and not decoder.finished
    assert decoder.failure is not None and decoder.failure.kind is Kind.UNSUPPORTED


@pytest.mark.parametrize(
    ("operation", "events"),
    [
        (Operation.CHAT, [*WORDS, CALL, chunk({}, "tool_calls"), USAGE, DONE]),
        (Operation.CHAT, [CALL, *WORDS, chunk({}, "stop"), USAGE, DONE]),
        (Operation.CHAT, [*WORDS, chunk({}, "length"), USAGE, DONE]),
        (Operation.CHAT, [*WORDS, chunk({}, "length")]),
        (Operation.MESSAGES, [*OF_A_MESSAGE, *STOPPED]),
    ],
)
def test_a_stream_with_a_call_or_cut_by_its_limit_passes_whole(
    operation: Operation, events: list[bytes]
) -> None:
    decoder = streamed(operation)
    free = ENGINE.decoder(request(operation, "auto", stream=True), "demo")
    sent = b"".join(decoder.feed(event) for event in events) + decoder.close()
    assert sent == b"".join(free.feed(event) for event in events) + free.close()
    assert decoder.failure is None and decoder.finished
    assert (decoder.content, decoder.usage) == (free.content, free.usage)


def test_words_are_held_until_the_call_begins_and_thoughts_are_not() -> None:
    decoder = streamed(Operation.CHAT)
    assert decoder.feed(THOUGHT) == THOUGHT.replace(b"demo", b"public") and decoder.content == 1
    assert not decoder.feed(WORDS[0]) and decoder.content == 1 and decoder.growing
    assert decoder.feed(CALL) == (WORDS[0] + CALL).replace(b"demo", b"public")
    assert decoder.content == 3 and not decoder.growing


def test_words_too_long_to_be_held_pass() -> None:
    decoder = streamed(Operation.CHAT)
    long = chunk({"content": "x" * (1 << 20)})
    assert not decoder.feed(WORDS[0])
    assert decoder.feed(long) == (WORDS[0] + long).replace(b"demo", b"public")
    decoder.feed(chunk({}, "stop"))
    decoder.feed(DONE)
    assert decoder.failure is not None and decoder.failure.kind is Kind.UNSUPPORTED


def test_words_before_an_error_are_sent_with_it() -> None:
    decoder = streamed(Operation.CHAT)
    decoder.feed(WORDS[0])
    out = decoder.feed(b'data: {"error":{"code":500,"message":"broken","type":"server_error"}}\n\n')
    assert out == WORDS[0].replace(b"demo", b"public") and decoder.content == 1
    assert decoder.failure is not None and decoder.failure.kind is not Kind.UNSUPPORTED
    assert decoder.feed(CALL) == b""

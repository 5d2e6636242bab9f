"""Ollama's answers translated to OpenAI's: whole ones, streams cut at every byte, and the kinds of failures."""

from __future__ import annotations

import base64
import itertools
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.base import Failure, Kind, Operation, Reply, Request, Usage
from backends.dialect import gathered
from backends.engines.ollama.engine import Ollama
from backends.framing import limit as limits

AT = "2026-08-21T10:00:00.123456789Z"
CREATED = 1787306400
COUNTS = {"total_duration": 5, "prompt_eval_count": 11, "eval_count": 7, "eval_duration": 3}
USAGE = Usage(11, 7)
TOOL_CALL = {
    "id": "call_x",
    "function": {"index": 0, "name": "get_port", "arguments": {"engine": "ollama", "n": 1.50}},
}


def request(
    operation: Operation = Operation.CHAT, stream: bool = False, usage: bool = False, **body: Any
) -> Request:
    text = json.dumps({"model": "public", **body}).encode()
    return Request(operation, text, "public", stream, usage, usage)


def line(done: bool = False, **more: Any) -> dict[str, Any]:
    return {"model": "qwen3:0.6b", "created_at": AT, **more, "done": done}


def says(content: str = "", **more: Any) -> dict[str, Any]:
    return line(message={"role": "assistant", "content": content, **more})


def ends(reason: str = "stop", **message: Any) -> dict[str, Any]:
    return line(True, message={"role": "assistant", "content": "", **message}, done_reason=reason, **COUNTS)


def wire(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in lines)


def whole(asked: Request, answer: dict[str, Any]) -> dict[str, Any]:
    reply = Ollama().reply(asked, "qwen3:0.6b", (), json.dumps(answer).encode())
    assert isinstance(reply, Reply), reply
    assert reply.content_type == b"application/json"
    body = json.loads(reply.body)
    assert isinstance(body, dict)
    return body


def events(stream: bytes) -> list[dict[str, Any]]:
    """Return the chunks of a complete stream, without `[DONE]`."""
    *chunks, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


def streamed(asked: Request, *lines: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    decoder = Ollama().decoder(asked, "qwen3:0.6b")
    out = decoder.feed(wire(*lines)) + decoder.close()
    assert (decoder.failure, decoder.finished) == (None, True)
    return events(out), decoder


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# --- whole answers


def test_a_chat_answer() -> None:
    body = whole(
        request(), says("Hi") | {"done": True, "done_reason": "stop", **COUNTS, "prompt_eval_cached_count": 4}
    )
    assert body.pop("id").startswith("chatcmpl-")
    assert body == {
        "object": "chat.completion",
        "created": CREATED,
        "model": "public",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
        "timings": {"predicted_ms": 3e-06},
    }


def test_usage_is_what_ollama_counted() -> None:
    answer = says("Hi") | {"done": True, "prompt_eval_cached_count": 4, **COUNTS}
    reply = Ollama().reply(request(), "m", (), json.dumps(answer).encode())
    assert isinstance(reply, Reply) and reply.usage == Usage(11, 7, 4)
    told = whole(request(), says("Hi") | {"done": True, **COUNTS})["usage"]
    assert told == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    odd = says("Hi") | {"done": True, "prompt_eval_count": "many", "eval_count": -1}
    reply = Ollama().reply(request(), "m", (), json.dumps(odd).encode())
    assert isinstance(reply, Reply) and reply.usage == Usage(0, 0)


def test_thoughts_and_tool_calls_of_a_whole_answer() -> None:
    nameless = {"function": {"name": "list", "arguments": {}}}
    said = says("", thinking="Hm.", tool_calls=[TOOL_CALL, nameless]) | {"done": True, "done_reason": "stop"}
    (choice,) = whole(request(), said)["choices"]
    message = choice["message"]
    assert (choice["finish_reason"], message["content"], message["reasoning_content"]) == (
        "tool_calls",
        None,
        "Hm.",
    )
    first, second = message["tool_calls"]
    assert (first["id"], first["type"], first["function"]["name"]) == ("call_x", "function", "get_port")
    assert json.loads(first["function"]["arguments"]) == {"engine": "ollama", "n": 1.5}
    assert second["id"].startswith("call-") and second["function"] == {"name": "list", "arguments": "{}"}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("load", "stop"),
        ("unload", "stop"),
        ("", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reasons(told: str | None, reason: str) -> None:
    answer = says("Hi") | {"done": True, "done_reason": told}
    assert whole(request(), answer)["choices"][0]["finish_reason"] == reason


def test_an_answer_cut_off_in_a_tool_call_says_so() -> None:
    answer = says("", tool_calls=[TOOL_CALL]) | {"done": True, "done_reason": "length"}
    assert whole(request(), answer)["choices"][0]["finish_reason"] == "length"


def test_a_completion() -> None:
    answer = line(True, response=" a gate", done_reason="length", context=[1, 2], **COUNTS)
    body = whole(request(Operation.COMPLETIONS), answer)
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"], body["created"]) == ("text_completion", "public", CREATED)
    assert body["choices"] == [{"index": 0, "text": " a gate", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["total_tokens"] == 18


LOGPROBS = [
    {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": [{"token": "H", "logprob": -0.5}]},
    {"token": "é", "logprob": -1.5},
]


def test_log_probabilities() -> None:
    answer = says("Hé") | {"done": True, "logprobs": LOGPROBS}
    assert whole(request(), answer)["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "H",
                "logprob": -0.5,
                "bytes": [72],
                "top_logprobs": [{"token": "H", "logprob": -0.5, "bytes": [72]}],
            },
            {"token": "é", "logprob": -1.5, "bytes": [195, 169], "top_logprobs": []},
        ]
    }
    text = whole(request(Operation.COMPLETIONS), line(True, response="Hé", logprobs=LOGPROBS))
    assert text["choices"][0]["logprobs"] == {
        "tokens": ["H", "é"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"H": -0.5}, {"é": -1.5}],
        "text_offset": [0, 1],
    }


def test_embeddings() -> None:
    answer = {"model": "m", "embeddings": [[0.5, -1e-3], [2, 3]], "total_duration": 1, "prompt_eval_count": 6}
    body = whole(request(Operation.EMBEDDINGS, input=["a", "b"]), answer)
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.001]},
            {"object": "embedding", "index": 1, "embedding": [2, 3]},
        ],
        "model": "public",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }
    packed = whole(request(Operation.EMBEDDINGS, input="a", encoding_format="base64"), answer)
    assert struct.unpack("<2f", base64.b64decode(packed["data"][1]["embedding"])) == (2.0, 3.0)


def test_a_whole_answer_to_a_wish_for_a_stream_becomes_one() -> None:
    """An empty prompt only loads the model; Ollama answers that without a stream even if one was asked for."""
    answer = json.dumps(line(True, response="", done_reason="load")).encode()
    reply = Ollama().reply(request(Operation.COMPLETIONS, True, True), "m", (), answer)
    assert isinstance(reply, Reply)
    _, ended, last = events(reply.body)
    assert ended["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert last["usage"]["total_tokens"] == 0


@pytest.mark.parametrize(
    ("operation", "body", "kind"),
    [
        (Operation.CHAT, b"<html>", Kind.GARBLED),
        (Operation.CHAT, b"[" * 100_000, Kind.GARBLED),
        (Operation.CHAT, b"{}", Kind.GARBLED),
        (Operation.CHAT, json.dumps(says("half")).encode(), Kind.FAILED),
        (Operation.CHAT, json.dumps(line(True, response="a")).encode(), Kind.GARBLED),
        (Operation.COMPLETIONS, json.dumps(ends()).encode(), Kind.GARBLED),
        (Operation.EMBEDDINGS, b'{"embeddings":[]}', Kind.GARBLED),
        (Operation.EMBEDDINGS, b'{"embeddings":3}', Kind.GARBLED),
        (Operation.CHAT, b'{"error":"the runner died"}', Kind.FAILED),
        (Operation.EMBEDDINGS, b'{"error":"the runner died"}', Kind.FAILED),
    ],
)
def test_answers_that_are_none(operation: Operation, body: bytes, kind: Kind) -> None:
    failure = Ollama().reply(request(operation, input="a"), "m", (), body)
    assert isinstance(failure, Failure) and failure.kind is kind


def test_openais_own_types_read_what_comes_out() -> None:
    said = says("Hé", thinking="Hm", tool_calls=[TOOL_CALL]) | {"done": True, "logprobs": LOGPROBS, **COUNTS}
    assert ChatCompletion.model_validate(whole(request(), said), strict=False).choices[0].message.tool_calls
    text = line(True, response="Hé", logprobs=LOGPROBS, done_reason="stop")
    assert Completion.model_validate(whole(request(Operation.COMPLETIONS), text)).choices[0].logprobs
    chunks, _ = streamed(
        request(stream=True, usage=True), says("H", thinking="m"), says(tool_calls=[TOOL_CALL]), ends()
    )
    for chunk in chunks:
        assert ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True).model == "public"


# --- streams


def test_a_stream() -> None:
    chunks, decoder = streamed(request(stream=True), says("Hel"), says("lo\n"), ends())
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]} and chunks[0]["id"].startswith("chatcmpl-")
    assert all(
        (chunk["object"], chunk["created"], chunk["model"]) == ("chat.completion.chunk", CREATED, "public")
        for chunk in chunks
    )
    assert deltas(chunks) == [{"role": "assistant", "content": "Hel"}, {"content": "lo\n"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert (decoder.content, decoder.usage) == (2, USAGE)
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_is_told_where_it_was_asked_for() -> None:
    chunks, _ = streamed(request(stream=True, usage=True), says("Hi"), ends())
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 18
    assert chunks[-1].keys() == chunks[0].keys() | {"usage"}


def test_thoughts_come_before_the_answer() -> None:
    chunks, decoder = streamed(request(stream=True), says(thinking="Hm"), says("A", thinking="."), ends())
    assert deltas(chunks) == [
        {"role": "assistant", "reasoning_content": "Hm"},
        {"reasoning_content": ".", "content": "A"},
        {},
    ]
    assert decoder.content == 2


def test_tool_calls_are_numbered_through_the_stream() -> None:
    chunks, decoder = streamed(
        request(stream=True),
        says("", tool_calls=[TOOL_CALL]),
        says("", tool_calls=[TOOL_CALL, TOOL_CALL]),
        ends(),
    )
    first, second, last = chunks
    (call,) = first["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["id"], call["type"]) == (0, "call_x", "function")
    assert json.loads(call["function"]["arguments"]) == {"engine": "ollama", "n": 1.5}
    assert [call["index"] for call in second["choices"][0]["delta"]["tool_calls"]] == [1, 2]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert decoder.content == 2


def test_what_the_last_line_says_is_said() -> None:
    chunks, decoder = streamed(request(stream=True), ends(content="All."))
    assert deltas(chunks) == [{"role": "assistant", "content": "All."}, {}]
    assert decoder.content == 1


def test_an_answer_of_nothing_is_complete() -> None:
    chunks, decoder = streamed(request(stream=True), says(""), ends("length"))
    assert deltas(chunks) == [{"role": "assistant"}]
    assert chunks[0]["choices"][0]["finish_reason"] == "length"
    assert decoder.content == 0


def test_a_stream_of_text() -> None:
    asked = request(Operation.COMPLETIONS, stream=True, usage=True)
    last = line(True, response="", done_reason="stop", context=[1], **COUNTS)
    chunks, decoder = streamed(asked, line(response=" a"), line(response=" b"), line(response=""), last)
    assert [chunk["choices"][0]["text"] for chunk in chunks[:-1]] == [" a", " b", ""]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["usage"]["completion_tokens"] == 7
    assert decoder.content == 2


def test_thoughts_of_a_completion() -> None:
    asked = request(Operation.COMPLETIONS, stream=True)
    chunks, _ = streamed(asked, line(response="", thinking="Hm"), line(True, response="", done_reason="stop"))
    assert chunks[0]["choices"][0]["reasoning_content"] == "Hm"


def test_log_probabilities_in_a_stream() -> None:
    told = [{"token": "ab", "logprob": -1}]
    chunks, decoder = streamed(request(stream=True), {**says(""), "logprobs": told}, ends())
    role, first = chunks[0]["choices"][0], chunks[1]["choices"][0]
    assert (role["delta"], role["logprobs"]) == ({"role": "assistant", "content": ""}, None)
    assert "role" not in first["delta"] and first["logprobs"]["content"][0]["token"] == "ab"
    assert (deltas(chunks)[0]["content"], decoder.content) == ("", 0)
    asked = request(Operation.COMPLETIONS, stream=True)
    one = line(response="ab", logprobs=told)
    chunks, _ = streamed(asked, one, one, line(True, response=""))
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]] == [[0], [2]]


def test_a_time_that_is_none() -> None:
    for told in ("", "yesterday", "2026-13-01T00:00:00Z"):
        body = whole(request(), says("Hi") | {"done": True, "created_at": told})
        assert body["created"] == 0
    local = whole(request(), says("Hi") | {"done": True, "created_at": "2026-08-21T12:00:00.5+02:00"})
    assert local["created"] == CREATED


STREAM = wire(
    says(thinking="Hm — "),
    says('He said "网关".\n'),
    says("\u2028🚀"),
    says("", tool_calls=[TOOL_CALL]),
    ends(),
)


def steady(out: bytes) -> list[Any]:
    """Return a stream's chunks without their id, which differs each time."""
    return [{**chunk, "id": ""} for chunk in events(out)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_cut_gives_the_same_stream(places: list[int]) -> None:
    once = Ollama().decoder(request(stream=True, usage=True), "m")
    expected = steady(once.feed(STREAM) + once.close())
    decoder = Ollama().decoder(request(stream=True, usage=True), "m")
    cuts = [0, *sorted(places), len(STREAM)]
    out = b"".join(decoder.feed(STREAM[a:b]) for a, b in itertools.pairwise(cuts))
    assert steady(out + decoder.close()) == expected
    assert (decoder.content, decoder.usage, decoder.finished) == (once.content, once.usage, True)


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    """A stream that the gateway assembles equals Ollama's whole answer."""
    lines = [says(thinking="Hm"), says("A"), says("", tool_calls=[TOOL_CALL]), ends()]
    decoder = Ollama().decoder(request(stream=True, usage=True), "m")
    gathered_up = json.loads(gathered.completion(Operation.CHAT, decoder.feed(wire(*lines))))
    told = ends(content="A", thinking="Hm", tool_calls=[TOOL_CALL])
    assert {**gathered_up, "id": ""} == {**whole(request(), told), "id": ""}


def failed(*pieces: bytes, operation: Operation = Operation.CHAT) -> tuple[bytes, Failure, Any]:
    decoder = Ollama().decoder(request(operation, stream=True), "m")
    out = b"".join([decoder.feed(piece) for piece in pieces])
    out += decoder.close() if decoder.failure is None else b""
    assert decoder.failure is not None and not decoder.finished
    assert b"[DONE]" not in out
    return out, decoder.failure, decoder


def test_an_error_line_ends_the_stream() -> None:
    said = wire(says("Hi"))
    out, failure, decoder = failed(
        said, b'{"error":"an error was encountered while running the model"}\n', said
    )
    assert out.count(b"data: ") == 1 and decoder.content == 1
    assert (failure.kind, failure.message) == (Kind.FAILED, "the engine reported an internal error")
    assert failure.detail == "an error was encountered while running the model"


def test_an_error_line_may_be_about_the_context() -> None:
    _, failure, _ = failed(b'{"error":"the input length exceeds the context length"}\n')
    assert failure.kind is Kind.CONTEXT


@pytest.mark.parametrize(
    "rest", [b"", b"{", b'{"model":"m","mess', b"\n", json.dumps(says("whole")).encode()], ids=repr
)
def test_a_stream_without_its_last_line_is_none(rest: bytes) -> None:
    _, failure, _ = failed(wire(says("Hi")), rest)
    assert failure.kind is Kind.RESET


def test_a_last_line_without_its_line_feed_counts() -> None:
    decoder = Ollama().decoder(request(stream=True), "m")
    out = decoder.feed(wire(says("Hi"), ends()).rstrip(b"\n")) + decoder.close()
    assert decoder.finished and len(events(out)) == 2


@pytest.mark.parametrize(
    "bad",
    [b"data: {}\n", b"<html>\n", b'{"done":"yes"}\n', b'{"message":[]}\n', b"\xff\n", b"[" * 100_000 + b"\n"],
)
def test_a_line_that_is_not_valid(bad: bytes) -> None:
    _, failure, _ = failed(wire(says("Hi")), bad)
    assert failure.kind is Kind.GARBLED


def test_a_line_without_end() -> None:
    decoder = Ollama().decoder(request(stream=True), "m")
    for _ in range(limits.EVENT // (1 << 20) + 1):
        decoder.feed(b"x" * (1 << 20))
    assert decoder.failure is not None and decoder.failure.kind is Kind.LIMIT


def test_after_its_end_a_stream_says_nothing() -> None:
    decoder = Ollama().decoder(request(stream=True), "m")
    decoder.feed(wire(says("Hi"), ends()))
    assert decoder.feed(wire(says("more"))) == b"" and decoder.close() == b""
    assert decoder.finished and decoder.failure is None

"""What LMDeploy's real answers mean: cut before stop strings, or aborted, or refused. Bytes in, values out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, Operation, Reply, Usage
from backends.engines.lmdeploy.answers import read_logprobs
from backends.engines.lmdeploy.engine import LMDeploy
from tests.backends.recorded import played, recorded, refusal, request

ENGINE = LMDeploy()
SIZES = pytest.mark.parametrize("size", [1, 7, 1 << 20])


def payloads(stream: bytes) -> list[Any]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


@SIZES
def test_a_chat_ends_before_its_stop_string(size: int) -> None:
    asked = request(Operation.CHAT, messages=[], stop=["###"], stream=True)
    out, decoder = played(ENGINE, asked, "stop_not_heard_stream", size)
    *events, end = payloads(out)
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "one two "
    assert [choice.get("finish_reason") for choice in choices][-1] == "stop" and end == b"[DONE]"
    assert decoder.finished and decoder.enough and decoder.failure is None


@SIZES
def test_a_chat_without_its_stop_string_is_whole(size: int) -> None:
    asked = request(Operation.CHAT, messages=[], stop=["## three", "###x"], stream=True)
    out, decoder = played(ENGINE, asked, "stop_not_heard_stream", size)
    *events, _ = payloads(out)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == "one two #" and decoder.enough
    asked = request(Operation.CHAT, messages=[], stop=["###x"], stream=True)
    out, decoder = played(ENGINE, asked, "stop_not_heard_stream", size)
    *events, _ = payloads(out)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == "one two ### three" and not decoder.enough and decoder.finished


def test_without_stop_strings_nothing_is_looked_into() -> None:
    asked = request(Operation.CHAT, messages=[], stream=True)
    out, decoder = played(ENGINE, asked, "stop_not_heard_stream")
    assert decoder.finished and not decoder.enough
    said = recorded("lmdeploy", "stop_not_heard_stream").answer.replace(
        b'"model": "demo"', b'"model": "public"'
    )
    assert b"".join(line for line in said.splitlines(True) if b'"choices": []' not in line)[:300] in out


@SIZES
def test_a_message_ends_before_its_stop_sequence_and_names_it(size: int) -> None:
    asked = request(Operation.MESSAGES, messages=[], max_tokens=9, stop_sequences=[" front of"], stream=True)
    out, decoder = played(ENGINE, asked, "messages_stream", size)
    events = payloads(out)
    text = "".join(
        event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
    )
    assert text == "This gateway is one OpenAI-compatible URL in"
    assert [event["type"] for event in events][-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": " front of"}
    assert decoder.finished and decoder.enough and decoder.usage is not None


@SIZES
def test_a_message_that_was_aborted_is_a_failure(size: int) -> None:
    asked = request(Operation.MESSAGES, messages=[], max_tokens=9, stream=True)
    out, decoder = played(ENGINE, asked, "aborted_messages_stream", size)
    assert decoder.failure is not None and decoder.failure.kind is Kind.FAILED
    assert b"message_stop" not in out


def test_a_message_that_was_not_is_none() -> None:
    asked = request(Operation.MESSAGES, messages=[], max_tokens=9, stream=True)
    out, decoder = played(ENGINE, asked, "messages_stream")
    assert decoder.failure is None and decoder.finished and not decoder.enough
    assert (
        out
        == recorded("lmdeploy", "messages_stream").answer.replace(b'"demo"', b'"public"').strip() + b"\n\n"
    )


def test_whole_completions_of_several_prompts() -> None:
    asked = request(Operation.COMPLETIONS, prompt=["a", "b"], stop=" b")
    reply = ENGINE.reply(asked, "demo", (), recorded("lmdeploy", "completions_list").answer)
    assert isinstance(reply, Reply) and reply.usage == Usage(47, 9)
    body = json.loads(reply.body)
    assert [choice["text"] for choice in body["choices"]] == ["first a", "second"]
    assert body["id"].startswith("cmpl-") and body["model"] == "public"
    streamed = request(Operation.COMPLETIONS, prompt=["a", "b"], stream=True)
    reply = ENGINE.reply(streamed, "demo", (), recorded("lmdeploy", "completions_list").answer)
    assert isinstance(reply, Reply)
    *events, _ = payloads(reply.body)
    assert [(choice["index"], choice["text"]) for event in events for choice in event["choices"]] == [
        (0, "first a"),
        (0, ""),
        (1, "second b c"),
        (1, ""),
    ]
    assert ENGINE.call(streamed, "demo").whole and b'"stream"' not in ENGINE.call(streamed, "demo").body


def test_what_its_engine_finds_too_long_is_so() -> None:
    assert refusal(ENGINE, "context_overflow_engine").kind is Kind.CONTEXT
    failed = b'{"error":{"code":"invalid_prompt","message":"The request exceeds the model context length."}}'
    assert ENGINE.failure(500, (), failed).kind is Kind.CONTEXT
    assert ENGINE.failure(500, (), failed.replace(b"exceeds", b"is")).kind is Kind.REJECTED


def test_a_response_that_fails_in_the_middle_is_a_failure() -> None:
    _, decoder = played(
        ENGINE, request(Operation.RESPONSES, input="a", stream=True), "responses_error_stream"
    )
    assert decoder.failure is not None and decoder.failure.kind is Kind.FAILED


def test_a_response_that_is_refused_before_its_first_text_has_said_nothing() -> None:
    asked = request(Operation.RESPONSES, input="a", stream=True)
    _, decoder = played(ENGINE, asked, "responses_overflow_engine_stream")
    assert decoder.failure is not None and decoder.failure.kind is Kind.CONTEXT
    assert decoder.content == 0


def token(raw: str, logprob: float = -0.5) -> dict[str, Any]:
    return {"token": raw, "bytes": list(raw.encode()), "logprob": logprob}


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        ("Ġtwo", b" two"),
        ("Ċ", b"\n"),
        ("ä½ł", "你".encode()),
        ("ð", b"\xf0"),
        ("\u2581two", b" two"),
        ("<0x0A>", b"\n"),
        ("网", "网".encode()),
    ],
)
def test_a_token_of_the_vocabulary_is_text(raw: str, data: bytes) -> None:
    logprobs = {"content": [token(raw) | {"top_logprobs": [token("Ġa", -0.1), token("Ġb", -2.0)]}]}
    read_logprobs(logprobs)
    (found,) = logprobs["content"]
    assert (found["token"], found["bytes"]) == (data.decode(errors="replace"), list(data))
    # The most probable tokens, the chosen one among them, in their order.
    assert [other["logprob"] for other in found["top_logprobs"]] == [-0.1, -0.5, -2.0]
    assert found["top_logprobs"][0] == token(" a", -0.1)

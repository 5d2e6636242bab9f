"""Answers of engines with an odd value at any one place: each is said or the engine's failure, and none is a crash."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from backends import registry
from backends.base import Failure, Kind, Operation, Reply
from tests.conformance import sdk
from tests.surfaces import chatting
from tests.surfaces.chatting import ENGINE, chunk, counted, translation
from tests.surfaces.test_odd_requests import paths

ODD: tuple[Any, ...] = (None, -1, 1.5, 10**30, "x", [], {}, [None], {"type": "x"})
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"model": "m", "messages": HI, "functions": [{"name": "get", "parameters": {}}]},
    Operation.MESSAGES: {"model": "m", "max_tokens": 9, "messages": HI},
    Operation.RESPONSES: {
        "model": "m",
        "input": "hi",
        "tools": [{"type": "custom", "name": "patch"}, {"type": "tool_search", "execution": "client"}],
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
    },
    Operation.OLLAMA_CHAT: {"model": "m", "messages": HI, "logprobs": True},
    Operation.OLLAMA_GENERATE: {"model": "m", "prompt": "hi"},
}
LACKS_FUNCTIONS = {Operation.CHAT: registry.create("vllm")}
OTHER = {"token": "b", "logprob": -2.0, "bytes": None}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [OTHER]}]}
CALLS = [
    {"id": f"c{at}", "type": "function", "index": at, "function": {"name": name, "arguments": arguments}}
    for at, (name, arguments) in enumerate(
        [("get", '{"a":1}'), ("patch", '{"input":"x"}'), ("tool_search", "{}")]
    )
]
MESSAGE = {"role": "assistant", "content": "yes", "reasoning": "hm", "refusal": None, "tool_calls": CALLS}
WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [
        {"index": 0, "message": MESSAGE, "finish_reason": "stop", "stop_reason": "END", "logprobs": LOGPROBS}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
    "timings": {"prompt_ms": 1.5, "predicted_ms": 2},
}
STREAM = [
    chunk({"role": "assistant", "content": "", "reasoning": "h"}),
    chunk({"content": "yes"}, logprobs=LOGPROBS),
    chunk({"tool_calls": CALLS, "refusal": "n"}),
    chunk({}, "tool_calls", stop_reason="END"),
    counted(3, 2, 1),
]
ENDS = (b"message_stop", b'"response.completed"', b'"response.incomplete"', b'"done":true', b"[DONE]")


def variants(answer: Any) -> list[tuple[str, bytes]]:
    """Return an answer with each odd value at each place, and what was put where."""
    made = []
    for path in paths({"answer": answer}):
        for odd in ODD:
            changed = copy.deepcopy({"answer": answer})
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = odd
            made.append((f"{path} = {odd!r}", json.dumps(changed["answer"]).encode()))
    return made


def translated(operation: Operation, stream: bool) -> Any:
    """Return how a request is said to an engine that has only chats, and the engine."""
    body = ASKED[operation] | {"stream": stream}
    engine = LACKS_FUNCTIONS.get(operation, ENGINE)
    return translation(operation, body, engine), engine


@pytest.mark.parametrize("operation", ASKED)
def test_a_whole_answer(operation: Operation) -> None:
    found, engine = translated(operation, stream=False)
    said = 0
    for what, answer in variants(WHOLE):
        read = engine.reply(found.said, "up", (), answer)
        try:
            reply = read if isinstance(read, Failure) else found.reply(read)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        said += isinstance(reply, Reply)
    assert said > 100


@pytest.mark.parametrize("operation", ASKED)
def test_a_stream(operation: Operation) -> None:
    found, engine = translated(operation, stream=True)
    said = 0
    for at, event in enumerate(STREAM):
        before, after = (chatting.stream(part, done=False) for part in (STREAM[:at], STREAM[at + 1 :]))
        for what, odd in variants(event):
            decoder = found.decoder(engine.decoder(found.said, "up"))
            data = before + b"data: " + odd + b"\n\n" + after + b"data: [DONE]\n\n"
            try:
                out = decoder.feed(data) + (b"" if decoder.failure else decoder.close())
            except Exception as error:
                raise AssertionError(f"{at}: {what}: {error!r}") from error
            assert any(end in out for end in ENDS) is (decoder.failure is None), f"{at}: {what}"
            said += decoder.failure is None
    assert said > 100


@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.OLLAMA_CHAT])
@pytest.mark.parametrize(
    "token",
    [
        {"token": None, "logprob": -0.5},
        {"token": "a", "logprob": None},
        {"token": "a"},
        {"token": "a", "logprob": -0.5, "bytes": ["a"]},
        {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": None, "logprob": -1}]},
        None,
    ],
)
def test_log_probabilities_that_no_client_could_read_are_the_engines_failure(
    operation: Operation, token: Any
) -> None:
    found, engine = translated(operation, stream=False)
    choice = {"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": {"content": [token]}}
    failure = found.reply(Reply(msgspec.json.encode(WHOLE | {"choices": [choice]})))
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED
    found, engine = translated(operation, stream=True)
    decoder = found.decoder(engine.decoder(found.said, "up"))
    decoder.feed(chatting.stream([chunk({"content": "a"}, logprobs={"content": [token]})]))
    assert decoder.failure is not None and decoder.failure.kind is Kind.GARBLED


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}, {"tokens": ["a"]}, "x"])
def test_log_probabilities_that_are_none_are_none(logprobs: Any) -> None:
    found, _ = translated(Operation.RESPONSES, stream=False)
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop", "logprobs": logprobs}
    reply = found.reply(Reply(msgspec.json.encode(WHOLE | {"choices": [choice]})))
    assert isinstance(reply, Reply)
    told = msgspec.json.decode(reply.body)
    sdk.fits(told)
    assert told["output"][0]["content"][0]["logprobs"] == []

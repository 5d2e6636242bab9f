"""A stream put together: what an engine would have answered had it been asked for a whole."""

import json
from typing import Any

import pytest

from backends.base import Operation
from backends.gathered import completion


def stream(*events: Any) -> bytes:
    return (
        b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    )


def chunk(delta: Any, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}


def chat(*events: Any) -> Any:
    return json.loads(completion(Operation.CHAT, stream(*events)))


def test_text_and_usage() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = chat(
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo\u2028"}),
        chunk({}, "stop"),
        {"id": "c-1", "object": "chat.completion.chunk", "choices": [], "usage": usage, "timings": {"n": 1}},
    )
    assert whole == {
        "id": "c-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "usage": usage,
        "timings": {"n": 1},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello\u2028"}, "finish_reason": "stop"}
        ],
    }


def test_several_choices_interleaved() -> None:
    whole = chat(
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, index=0),
        chunk({"content": "B"}, "length", index=1),
        chunk({"content": "A"}, "stop", index=0),
    )
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


def test_tool_calls_are_put_together_by_index() -> None:
    first = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "y", "type": "function", "function": {"name": "g", "arguments": '{"b'}}
    whole = chat(
        chunk({"role": "assistant", "tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [second]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": '":2}'}}]}, "tool_calls"),
    )
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "y", "type": "function", "function": {"name": "g", "arguments": '{"b":2}'}},
    ]


def test_reasoning_and_log_probabilities() -> None:
    one, two = {"content": [{"token": "a"}]}, {"content": [{"token": "b"}]}
    whole = chat(
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "a"}, logprobs=one),
        chunk({"content": "b"}, "stop", logprobs=two),
    )
    choice = whole["choices"][0]
    assert choice["message"]["reasoning_content"] == "hmm"
    assert choice["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_completions() -> None:
    events = [
        {
            "id": "t",
            "object": "text_completion",
            "choices": [{"index": 0, "text": text, "finish_reason": end}],
        }
        for text, end in (("one ", None), ("two", None), ("", "stop"))
    ]
    whole = json.loads(completion(Operation.COMPLETIONS, stream(*events)))
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [{"index": 0, "text": "one two", "finish_reason": "stop"}]


def test_a_stream_without_choices_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no choices"):
        completion(Operation.CHAT, stream({"choices": []}))

"""Assembling a stream: the result is what the engine would have answered without a stream."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import Operation, Request
from backends.dialect import gathered
from backends.dialect.gathered import completion

NOW = 1795266600.5
"""When the answers of these tests are complete, in seconds since 1970."""


def whole(operation: Operation, stream: bytes) -> bytes:
    return gathered.whole(Request(operation, b"{}", "m", stream=True), stream, NOW)


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


RECORDINGS = Path(__file__).parent.parent / "recordings" / "llamacpp"


def recorded(name: str) -> bytes:
    return (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]


def test_a_response_stands_in_its_last_event() -> None:
    """The same request was recorded with and without a stream."""
    made, told = (
        json.loads(whole(Operation.RESPONSES, recorded("responses_stream"))),
        json.loads(recorded("responses")),
    )
    assert made["output"][0]["content"][0]["text"] == told["output"][0]["content"][0]["text"] != ""
    assert set(told) == set(made)
    assert made["completed_at"] == 1795266600
    assert (made["object"], made["status"], made["model"]) == ("response", "completed", "demo")


def test_a_message_is_put_together_from_its_blocks() -> None:
    made, told = (
        json.loads(whole(Operation.MESSAGES, recorded("messages_stream"))),
        json.loads(recorded("messages")),
    )
    own = ("id", "usage")  # the second of the two found its prompt in the cache
    assert {k: v for k, v in made.items() if k not in own} == {k: v for k, v in told.items() if k not in own}
    assert made["usage"]["output_tokens"] == told["usage"]["output_tokens"]


def test_a_message_with_thoughts_and_a_tool() -> None:
    events = [
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 5}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "name": "f", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"a'},
        },
        {"type": "ping"},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '": 1}'},
        },
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "name": "g", "input": {}},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    stream = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert json.loads(whole(Operation.MESSAGES, stream)) == {
        "id": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "name": "g", "input": {}},
        ],
        "usage": {"input_tokens": 5, "output_tokens": 9},
        "stop_reason": "tool_use",
    }


def test_an_infill_is_its_pieces_in_the_last_one() -> None:
    made = json.loads(whole(Operation.INFILL, recorded("completion_stream")))
    assert made["stop"] is True and made["tokens_predicted"] == 4
    pieces = [
        json.loads(event[6:])["content"] for event in recorded("completion_stream").split(b"\n\n") if event
    ]
    assert made["content"] == "".join(pieces) != ""


@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.MESSAGES, Operation.RERANK])
def test_a_stream_of_something_else_is_refused(operation: Operation) -> None:
    with pytest.raises(ValueError):
        whole(operation, b'data: {"type":"ping"}\n\n')


def call(index: int = 0, **more: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": index, **more}]})


def calls_of(*events: Any) -> Any:
    return chat(*events, chunk({}, "tool_calls"))["choices"][0]["message"]["tool_calls"]


@pytest.mark.parametrize("empty", ["", None])
def test_what_is_empty_in_a_later_piece_erases_nothing(empty: str | None) -> None:
    later: dict[str, Any] = {"id": empty, "type": empty, "function": {"name": empty, "arguments": '{"a":1}'}}
    first = call(id="call_1", type="function", function={"name": "calc", "arguments": ""})
    assert calls_of(first, call(**later)) == [
        {"id": "call_1", "type": "function", "function": {"name": "calc", "arguments": '{"a":1}'}}
    ]


def test_calls_with_other_ids_at_one_index_are_other_calls() -> None:
    told = calls_of(
        call(id="a", function={"name": "f", "arguments": '{"x"'}),
        call(function={"arguments": ":1}"}),
        call(id="b", function={"name": "g", "arguments": '{"y"'}),
        call(function={"arguments": ":2}"}),
    )
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in told] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", '{"y":2}'),
    ]


def test_a_call_whose_pieces_repeat_their_id_or_change_it_is_one_call() -> None:
    for later in ("a", "another of each piece"):
        (told,) = calls_of(
            call(id="a", function={"name": "f", "arguments": "{"}),
            call(id=later, function={"arguments": "}"}),
        )
        assert told["function"] == {"name": "f", "arguments": "{}"}


def test_sound_is_joined() -> None:
    told = chat(
        chunk({"role": "assistant", "audio": {"id": "a1", "data": "QQQQ"}}),
        chunk({"audio": {"data": "RRQ=", "transcript": "hel"}}),
        chunk({"audio": {"data": "QUI=", "transcript": "lo", "expires_at": 5}}),
        chunk({}, "stop"),
    )
    audio = told["choices"][0]["message"]["audio"]
    assert (audio["id"], audio["transcript"], audio["expires_at"]) == ("a1", "hello", 5)
    pieces = [base64.b64decode(piece) for piece in ("QQQQ", "RRQ=", "QUI=")]
    assert base64.b64decode(audio["data"], validate=True) == b"".join(pieces)


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        ('{"a": 1', {"a": 1}),
        ('{"a": "b"', {"a": "b"}),
        ('{"a": "b", "c": "half', {"a": "b", "c": "half"}),
        ('{"a": "b", "c"', {"a": "b"}),
        ('{"a": "b", "c":', {"a": "b"}),
        ('{"a": ["x", "y', {"a": ["x", "y"]}),
        ('{"a": {"b": [1, 2], "c": tr', {"a": {"b": [1, 2]}}),
        ('{"a": "br}ace, \\" quote", "b', {"a": 'br}ace, " quote'}),
        ("{", {}),
        ('{"', {}),
        ('{"a": 1}', {"a": 1}),
        ("nonsense", {}),
    ],
)
def test_of_arguments_that_were_cut_what_can_be_read_is_kept(pieces: str, read: Any) -> None:
    events = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": pieces}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
        {"type": "message_stop"},
    ]  # fmt: skip
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    told = json.loads(whole(Operation.MESSAGES, data))
    assert (told["content"][0]["input"], told["stop_reason"]) == (read, "max_tokens")


def test_a_response_that_is_not_completed_has_no_time_of_completion() -> None:
    last = {"type": "response.incomplete", "response": {"object": "response", "status": "incomplete"}}
    assert "completed_at" not in json.loads(whole(Operation.RESPONSES, stream(last)))
    told = {"object": "response", "status": "completed", "completed_at": 5}
    assert (
        json.loads(whole(Operation.RESPONSES, stream({"type": "response.completed", "response": told})))
        == told
    )

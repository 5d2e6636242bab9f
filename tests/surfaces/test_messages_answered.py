"""Chat answers, whole and streamed, as Anthropic's API has them: each case is one that real engines produce."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends.base import Operation
from tests.conformance import sdk
from tests.surfaces import chatting
from tests.surfaces.chatting import chunk, counted

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    found = chatting.whole(Operation.MESSAGES, ASKED, message, finish, **more)
    sdk.fits_message(found)
    return found


def streamed(*events: dict[str, Any]) -> list[dict[str, Any]]:
    found = chatting.translation(Operation.MESSAGES, ASKED | {"stream": True})
    made = chatting.events(chatting.streamed(found, chatting.stream(events)))
    for event in made:
        sdk.fits_message_event(event)
    assert made[0]["type"] == "message_start" and made[-1] == {"type": "message_stop"}
    return made


def blocks(made: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the type of each block with all that was said in it, and hold the events to their order."""
    found: list[tuple[str, str]] = []
    is_open = False
    for event in made:
        kind = event["type"]
        if kind == "content_block_start":
            assert not is_open and event["index"] == len(found)
            is_open = True
            found.append((event["content_block"]["type"], ""))
        elif kind == "content_block_delta":
            assert is_open and event["index"] == len(found) - 1
            delta = event["delta"]
            more = delta.get("text", "") + delta.get("thinking", "") + delta.get("partial_json", "")
            found[-1] = (found[-1][0], found[-1][1] + more)
        elif kind == "content_block_stop":
            assert is_open and event["index"] == len(found) - 1
            is_open = False
    assert not is_open
    return found


def ending(made: list[dict[str, Any]]) -> dict[str, Any]:
    (last,) = [event for event in made if event["type"] == "message_delta"]
    return last


def call(
    index: int | None, arguments: str | None = None, name: str | None = None, id: str | None = None
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    piece = {
        "index": index,
        "id": id,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in piece.items() if value is not None}


def calls(*pieces: dict[str, Any]) -> dict[str, Any]:
    return chunk({"tool_calls": list(pieces)})


def test_a_text() -> None:
    made = whole({"content": "hello"}, usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
    assert made["content"] == [{"type": "text", "text": "hello"}]
    assert (made["model"], made["stop_reason"], made["stop_sequence"]) == ("m", "end_turn", None)
    assert made["usage"] == {"input_tokens": 5, "output_tokens": 2}


def test_what_came_from_a_cache_is_not_counted_twice() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    counts = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4}
    assert whole({"content": "x"}, usage=usage)["usage"] == counts
    made = streamed(chunk({"content": "x"}), chunk({}, "stop"), counted(9, 2, cached=4))
    assert ending(made)["usage"] == counts


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_thoughts(member: str) -> None:
    made = whole({"content": "yes", member: "hm"})
    assert [block["type"] for block in made["content"]] == ["thinking", "text"]
    assert made["content"][0]["thinking"] == "hm"
    said = streamed(chunk({member: "h"}), chunk({member: "m"}), chunk({"content": "yes"}), chunk({}, "stop"))
    assert blocks(said) == [("thinking", "hm"), ("text", "yes")]


def test_thoughts_in_the_text_stay_text() -> None:
    made = whole({"content": "<think>hm</think>yes"})
    assert made["content"][0]["text"] == "<think>hm</think>yes"


@pytest.mark.parametrize(
    ("finish", "more", "reason", "sequence"),
    [
        ("stop", {}, "end_turn", None),
        ("stop", {"stop_reason": "END"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": 151645}, "end_turn", None),
        ("stop", {"matched_stop": "END"}, "stop_sequence", "END"),
        ("length", {}, "max_tokens", None),
        ("tool_calls", {}, "end_turn", None),
        ("content_filter", {}, "refusal", None),
    ],
)
def test_why_it_ended_is_the_same_whole_and_streamed(
    finish: str, more: dict[str, Any], reason: str, sequence: str | None
) -> None:
    made = whole({"content": "x"}, finish, **more)
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)
    delta = ending(streamed(chunk({"content": "x"}), chunk({}, finish, **more)))["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == (reason, sequence)


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_a_call(finish: str) -> None:
    function = {"name": "get", "arguments": '{"a": 1}'}
    made = whole(
        {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}, finish
    )
    assert made["content"] == [{"type": "tool_use", "id": "c1", "name": "get", "input": {"a": 1}}]
    assert made["stop_reason"] == "tool_use"
    said = streamed(
        calls(call(0, "", "get", "c1")), calls(call(0, '{"a"')), calls(call(0, ": 1}")), chunk({}, finish)
    )
    assert blocks(said) == [("tool_use", '{"a": 1}')]
    begun = said[1]["content_block"]
    assert (begun["id"], begun["name"], begun["input"]) == ("c1", "get", {})
    assert ending(said)["delta"]["stop_reason"] == "tool_use"


def test_arguments_that_a_limit_has_cut_are_an_answer() -> None:
    function = {"name": "get", "arguments": '{"a": "half of'}
    made = whole({"tool_calls": [{"id": "c1", "type": "function", "function": function}]}, "length")
    assert made["content"][0]["input"] == {"a": "half of"} and made["stop_reason"] == "max_tokens"
    said = streamed(calls(call(0, '{"a": "half of', "get", "c1")), chunk({}, "length"))
    assert blocks(said) == [("tool_use", '{"a": "half of')]
    assert ending(said)["delta"]["stop_reason"] == "max_tokens"


def test_a_call_without_arguments_has_one_empty_piece() -> None:
    said = streamed(calls(call(0, "", "now", "c1")), chunk({}, "tool_calls"))
    pieces = [event["delta"] for event in said if event["type"] == "content_block_delta"]
    assert pieces == [{"type": "input_json_delta", "partial_json": ""}]


def test_empty_texts_between_the_pieces_open_nothing() -> None:
    said = streamed(
        chunk({"role": "assistant", "content": ""}),
        calls(call(0, "", "get", "c1")),
        chunk({"content": ""}),
        calls(call(0, "{}")),
        chunk({"content": ""}, "tool_calls"),
    )
    assert blocks(said) == [("tool_use", "{}")]


def test_an_id_and_a_name_in_every_piece_begin_nothing_anew() -> None:
    said = streamed(
        *[calls(call(0, piece, "get", "c1")) for piece in ('{"a"', ":", "1}")], chunk({}, "tool_calls")
    )
    assert blocks(said) == [("tool_use", '{"a":1}')]


def test_arguments_before_the_name_are_kept() -> None:
    said = streamed(calls(call(0, '{"a"')), calls(call(0, ":1}", "get")), chunk({}, "tool_calls"))
    assert blocks(said) == [("tool_use", '{"a":1}')]
    assert said[1]["content_block"]["id"].startswith("toolu_")


def test_a_piece_without_an_index_belongs_to_the_first_call() -> None:
    said = streamed(calls(call(None, '{"a"', "get", "c1")), calls(call(None, ":1}")), chunk({}, "tool_calls"))
    assert blocks(said) == [("tool_use", '{"a":1}')]


def test_calls_one_after_the_other() -> None:
    said = streamed(
        calls(call(0, '{"a":1}', "get", "c1")),
        calls(call(1, '{"b":', "put", "c2")),
        calls(call(1, "2}")),
        chunk({}, "tool_calls"),
    )
    assert blocks(said) == [("tool_use", '{"a":1}'), ("tool_use", '{"b":2}')]


def test_calls_whose_pieces_are_mixed_keep_their_order() -> None:
    said = streamed(
        calls(call(0, '{"a"', "get", "c1"), call(1, '{"b"', "put", "c2")),
        calls(call(1, ":2}")),
        calls(call(0, ":1}")),
        chunk({}, "tool_calls"),
    )
    assert blocks(said) == [("tool_use", '{"a":1}'), ("tool_use", '{"b":2}')]
    begun = [event["content_block"]["name"] for event in said if event["type"] == "content_block_start"]
    assert begun == ["get", "put"]


def test_another_id_and_name_at_the_same_index_is_another_call() -> None:
    said = streamed(
        calls(call(0, '{"a":1}', "get", "c1")),
        calls(call(0, '{"b":2}', "put", "c2")),
        chunk({}, "tool_calls"),
    )
    assert blocks(said) == [("tool_use", '{"a":1}'), ("tool_use", '{"b":2}')]


def test_thoughts_text_and_a_call_in_one_event_all_survive() -> None:
    everything = {"reasoning": "hm", "content": "yes", "tool_calls": [call(0, "{}", "get", "c1")]}
    said = streamed(chunk(everything), chunk({}, "tool_calls"))
    assert blocks(said) == [("thinking", "hm"), ("text", "yes"), ("tool_use", "{}")]


def test_text_behind_a_call_is_a_block_of_its_own() -> None:
    said = streamed(calls(call(0, "{}", "get", "c1")), chunk({"content": "so"}), chunk({}, "tool_calls"))
    assert blocks(said) == [("tool_use", "{}"), ("text", "so")]


def test_only_the_first_choice_is_told() -> None:
    second = chunk({"content": "b"})
    second["choices"][0]["index"] = 1
    second_end = chunk({}, "stop")
    second_end["choices"][0]["index"] = 1
    said = streamed(chunk({"content": "a"}), second, chunk({}, "stop"), second_end)
    assert blocks(said) == [("text", "a")]


def test_a_refusal_is_text() -> None:
    assert whole({"content": None, "refusal": "no"})["content"][0]["text"] == "no"
    assert blocks(streamed(chunk({"refusal": "no"}), chunk({}, "stop"))) == [("text", "no")]


def test_an_answer_that_says_nothing() -> None:
    assert whole({"content": ""})["content"] == []
    said = streamed(chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), counted(3, 0))
    assert [event["type"] for event in said] == ["message_start", "message_delta", "message_stop"]


def test_text_in_escapes_and_beyond_ascii() -> None:
    texts = ['"', "\\", "\n", "ü", "\U0001f600", "\u2028", "a"]
    said = streamed(*[chunk({"content": text}) for text in texts], chunk({}, "stop"))
    assert blocks(said) == [("text", "".join(texts))]


def test_every_event_is_one_line_of_data() -> None:
    found = chatting.translation(Operation.MESSAGES, ASKED | {"stream": True})
    data = chatting.streamed(found, chatting.stream([chunk({"content": "a\nb"}), chunk({}, "stop")]))
    for block in data.split(b"\n\n")[:-1]:
        name, payload = block.split(b"\n")
        assert name.startswith(b"event: ") and msgspec.json.decode(payload.removeprefix(b"data: "))

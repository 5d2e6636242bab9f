"""Chat answers, whole and streamed, as OpenAI's Responses API has them: each case is one that real engines produce."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Operation
from tests.conformance import sdk
from tests.surfaces import chatting
from tests.surfaces.chatting import chunk, counted

ASKED: dict[str, Any] = {"model": "m", "input": "hi", "instructions": "be brief"}
PATCH = {"type": "custom", "name": "apply_patch"}


def whole(message: dict[str, Any], finish: str = "stop", tools: Any = (), **more: Any) -> dict[str, Any]:
    found = chatting.whole(Operation.RESPONSES, ASKED | {"tools": list(tools)}, message, finish, **more)
    sdk.fits(found)
    return found


def streamed(*events: dict[str, Any], tools: Any = ()) -> list[dict[str, Any]]:
    found = chatting.translation(Operation.RESPONSES, ASKED | {"stream": True, "tools": list(tools)})
    made = chatting.events(chatting.streamed(found, chatting.stream(events)))
    for number, event in enumerate(made):
        sdk.fits_response_event(event)
        assert event["sequence_number"] == number
    assert [event["type"] for event in made[:2]] == ["response.created", "response.in_progress"]
    _hold_together(made)
    return made


def _hold_together(made: list[dict[str, Any]]) -> None:
    """Hold the events to each other: what the deltas say, the ends of parts and items, and the last event."""
    texts: dict[str, str] = {}
    items: list[dict[str, Any]] = []
    begun = 0
    for event in made:
        kind = event["type"]
        if kind.endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
        elif kind == "response.output_item.added":
            assert event["output_index"] == begun == len(items)
            begun += 1
        elif kind == "response.output_item.done":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif kind.endswith(".done") and "part" not in event:
            told = event.get("text", event.get("arguments", event.get("input", event.get("refusal"))))
            assert told == texts.get(event["item_id"], "") or told == "{}"
    last = made[-1]["response"]
    assert made[-1]["type"] == f"response.{last['status']}" and last["output"] == items


def output(made: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the type of each item with what it says."""
    found = []
    for item in made[-1]["response"]["output"]:
        said = item.get("arguments", item.get("input"))
        if said is None:
            said = "".join(part.get("text", part.get("refusal")) for part in item["content"])
        found.append((item["type"], said))
    return found


def call(index: int, arguments: str, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"index": index, "function": {"arguments": arguments, **named}} | (
        {} if id is None else {"id": id}
    )


def calls(*pieces: dict[str, Any]) -> dict[str, Any]:
    return chunk({"tool_calls": list(pieces)})


def test_a_text() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    made = whole({"content": "hello"}, usage=usage)
    (item,) = made["output"]
    assert item["content"][0]["text"] == "hello"
    assert (made["status"], made["model"], made["instructions"]) == ("completed", "m", "be brief")
    assert made["usage"]["input_tokens"] == 9 and made["usage"]["input_tokens_details"]["cached_tokens"] == 4
    said = streamed(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        counted(9, 2, cached=4),
    )
    assert output(said) == [("message", "hello")]
    assert said[-1]["response"]["usage"] == made["usage"]


def test_many_texts_pass_without_being_decoded_and_are_told_whole() -> None:
    texts = ["a", '"', "\\", "\n", "ü", "\U0001f600", "b", "c"]
    said = streamed(*[chunk({"content": text}) for text in texts], chunk({}, "stop"))
    assert output(said) == [("message", "".join(texts))]


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_thoughts(member: str) -> None:
    made = whole({"content": "yes", member: "hm"})
    assert [item["type"] for item in made["output"]] == ["reasoning", "message"]
    said = streamed(chunk({member: "h"}), chunk({member: "m"}), chunk({"content": "yes"}), chunk({}, "stop"))
    assert output(said) == [("reasoning", "hm"), ("message", "yes")]


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_why_it_ended_is_the_same_whole_and_streamed(finish: str, status: str, reason: str | None) -> None:
    details = None if reason is None else {"reason": reason}
    made = whole({"content": "x"}, finish)
    assert (made["status"], made["incomplete_details"]) == (status, details)
    last = streamed(chunk({"content": "x"}), chunk({}, finish))[-1]["response"]
    assert (last["status"], last["incomplete_details"]) == (status, details)


def test_a_model_that_stops_with_its_last_token_is_not_cut() -> None:
    """The chat tells why it ended; that as many tokens came as might says nothing then."""
    body = ASKED | {"max_output_tokens": 2}
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    assert chatting.whole(Operation.RESPONSES, body, {"content": "x y"}, usage=usage)["status"] == "completed"
    found = chatting.translation(Operation.RESPONSES, body | {"stream": True})
    said = chatting.stream([chunk({"content": "x y"}), chunk({}, "stop"), counted(9, 2)])
    assert chatting.events(chatting.streamed(found, said))[-1]["type"] == "response.completed"


def test_a_call_alone_opens_no_message() -> None:
    function = {"name": "get", "arguments": '{"a": 1}'}
    made = whole(
        {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        "tool_calls",
    )
    (item,) = made["output"]
    assert (item["type"], item["call_id"], item["name"], item["arguments"]) == (
        "function_call",
        "c1",
        "get",
        '{"a": 1}',
    )
    assert item["id"] != item["call_id"]
    said = streamed(
        calls(call(0, "", "get", "c1")),
        calls(call(0, '{"a"')),
        calls(call(0, ": 1}")),
        chunk({}, "tool_calls"),
    )
    assert output(said) == [("function_call", '{"a": 1}')]
    kinds = [event["type"] for event in said if "function_call_arguments" in event["type"]]
    assert kinds == [*["response.function_call_arguments.delta"] * 2, "response.function_call_arguments.done"]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert output(streamed(calls(call(0, "", "now", "c1")), chunk({}, "tool_calls"))) == [
        ("function_call", "{}")
    ]


def test_calls_whose_pieces_are_mixed_keep_their_order() -> None:
    said = streamed(
        calls(call(0, '{"a"', "get", "c1"), call(1, '{"b"', "put", "c2")),
        calls(call(1, ":2}")),
        calls(call(0, ":1}")),
        chunk({}, "tool_calls"),
    )
    assert output(said) == [("function_call", '{"a":1}'), ("function_call", '{"b":2}')]


def test_a_call_of_a_custom_tool_is_its_text() -> None:
    arguments = '{"input": "*** Begin\\n+x"}'
    function = {"name": "apply_patch", "arguments": arguments}
    made = whole(
        {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}, "tool_calls", [PATCH]
    )
    (item,) = made["output"]
    assert (item["type"], item["input"], item["call_id"]) == ("custom_tool_call", "*** Begin\n+x", "c1")
    said = streamed(
        calls(call(0, arguments[:9], "apply_patch", "c1")),
        calls(call(0, arguments[9:])),
        chunk({}, "tool_calls"),
        tools=[PATCH],
    )
    assert output(said) == [("custom_tool_call", "*** Begin\n+x")]


def test_thoughts_text_and_a_call_in_one_event_all_survive() -> None:
    everything = {"reasoning": "hm", "content": "yes", "tool_calls": [call(0, "{}", "get", "c1")]}
    said = streamed(chunk(everything), chunk({}, "tool_calls"))
    assert output(said) == [("reasoning", "hm"), ("message", "yes"), ("function_call", "{}")]


def test_arguments_that_a_limit_has_cut_are_an_answer() -> None:
    said = streamed(calls(call(0, '{"a": "half', "get", "c1")), chunk({}, "length"))
    assert output(said) == [("function_call", '{"a": "half')]
    assert said[-1]["type"] == "response.incomplete"


def test_a_refusal() -> None:
    assert whole({"content": None, "refusal": "no"})["output"][0]["content"][0]["refusal"] == "no"
    said = streamed(chunk({"refusal": "n"}), chunk({"refusal": "o"}), chunk({}, "stop"))
    assert output(said) == [("message", "no")]


def test_an_answer_that_says_nothing() -> None:
    assert whole({"content": ""})["output"] == []
    said = streamed(chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), counted(3, 0))
    assert len(said) == 3 and said[-1]["response"]["output"] == []


def test_a_stream_that_breaks_off_has_no_end() -> None:
    found = chatting.translation(Operation.RESPONSES, ASKED | {"stream": True})
    decoder = found.decoder(chatting.ENGINE.decoder(found.said, "up"))
    out = decoder.feed(chatting.stream([chunk({"content": "a"})], done=False)) + decoder.close()
    made = chatting.events(out)
    assert decoder.failure is not None and made[-1]["type"] == "response.output_text.delta"
    assert decoder.events == made[-1]["sequence_number"] + 1

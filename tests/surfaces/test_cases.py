"""What clients and engines do that breaks translations, one case each, in every dialect that it concerns.

The cases of one dialect alone stand in the tests of its requests and its answers.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.base import Kind, Operation
from tests.surfaces import chatting
from tests.surfaces.chatting import ENGINE, chunk, counted, said, stream, translation

MESSAGES, RESPONSES, OLLAMA = Operation.MESSAGES, Operation.RESPONSES, Operation.OLLAMA_CHAT
GEMINI = Operation.GEMINI_GENERATE
DIALECTS = (MESSAGES, RESPONSES, OLLAMA, GEMINI)
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[Operation, dict[str, Any]] = {
    MESSAGES: {"model": "m", "max_tokens": 9, "messages": HI},
    RESPONSES: {"model": "m", "input": "hi"},
    OLLAMA: {"model": "m", "messages": HI},
    GEMINI: {"model": "m", "alt": "sse", "contents": [{"parts": [{"text": "hi"}]}]},
}
END = [chunk({}, "stop"), counted(3, 2)]
ENDS = ("message_stop", "message_delta", "response.completed", "response.incomplete")


def pieces(operation: Operation, data: bytes) -> list[dict[str, Any]]:
    """Return the events or lines that a client gets."""
    if operation is OLLAMA:
        return [msgspec.json.decode(line) for line in data.split(b"\n")[:-1]]
    if operation is GEMINI:
        return chatting.pieces(data)
    return chatting.events(data)


def streamed(operation: Operation, *events: dict[str, Any]) -> list[dict[str, Any]]:
    found = translation(operation, ASKED[operation] | {"stream": True})
    return pieces(operation, chatting.streamed(found, stream(events)))


def broken(operation: Operation, data: bytes) -> tuple[list[dict[str, Any]], Kind]:
    """Return what a client gets of a stream that fails, and how it failed."""
    found = translation(operation, ASKED[operation] | {"stream": True})
    decoder = found.decoder(ENGINE.decoder(found.said, "up"))
    out = decoder.feed(data)
    if decoder.failure is None:
        out += decoder.close()
    assert decoder.failure is not None
    return pieces(operation, out), decoder.failure.kind


def call(index: int | None, arguments: str, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"function": {"arguments": arguments} | ({} if name is None else {"name": name})}
    made |= {} if index is None else {"index": index}
    return made | ({} if id is None else {"id": id})


def calls(*found: dict[str, Any]) -> dict[str, Any]:
    return chunk({"tool_calls": list(found)})


def called(operation: Operation, made: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return the names and arguments of the calls that a client has at the end."""
    if operation is RESPONSES:
        items = made[-1]["response"]["output"]
        return [(i["name"], json.loads(i["arguments"])) for i in items if i["type"] == "function_call"]
    if operation is OLLAMA:
        told = [one["function"] for line in made for one in line["message"].get("tool_calls", ())]
        return [(function["name"], function["arguments"]) for function in told]
    if operation is GEMINI:
        parts = [part for piece in made for part in piece["candidates"][0]["content"]["parts"]]
        found = [part["functionCall"] for part in parts if "functionCall" in part]
        return [(one["name"], one["args"]) for one in found]
    texts: dict[int, str] = {}
    names: dict[int, str] = {}
    for event in made:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            names[event["index"]] = event["content_block"]["name"]
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            assert event["index"] in names
            texts[event["index"]] = texts.get(event["index"], "") + event["delta"]["partial_json"]
    return [(name, json.loads(texts[at] or "{}")) for at, name in names.items()]


@pytest.mark.parametrize("operation", DIALECTS)
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", Kind.RESET, id="a close in the middle"),
        pytest.param(b"data: [DONE]\n\n", Kind.GARBLED, id="done without a reason"),
        pytest.param(b"data: {broken\n\n", Kind.GARBLED, id="no JSON"),
        pytest.param(b'data: {"choices": [', Kind.RESET, id="half an event"),
        pytest.param(b'data: {"error": {"message": "out of memory"}}\n\n', Kind.FAILED, id="an error"),
        pytest.param(stream([chunk({"content": 5})]), Kind.GARBLED, id="content that is a number"),
    ],
)
def test_a_stream_that_fails_has_no_end_in_any_dialect(operation: Operation, data: bytes, kind: Kind) -> None:
    made, failed = broken(operation, stream([chunk({"content": "a"})], done=False) + data)
    assert failed is kind and made
    ended = [
        one for one in made if one.get("type") in ENDS or one.get("done") is True or "usageMetadata" in one
    ]
    assert not ended


@pytest.mark.parametrize("operation", DIALECTS)
def test_a_late_piece_of_a_call_that_is_over_says_nothing(operation: Operation) -> None:
    made = streamed(
        operation,
        calls(call(0, '{"a":1}', "get", "c1")),
        calls(call(1, '{"b":2}', "put", "c2")),
        calls(call(0, "")),
        calls(call(0, "", "get", "c1")),
        chunk({}, "tool_calls"),
    )
    assert called(operation, made) == [("get", {"a": 1}), ("put", {"b": 2})]


@pytest.mark.parametrize("operation", DIALECTS)
def test_arguments_behind_the_end_of_a_call_that_was_cut_are_the_engines_failure(
    operation: Operation,
) -> None:
    data = [calls(call(0, '{"a"', "get", "c1")), chunk({"content": "so"}), calls(call(0, ":1}"))]
    _, failed = broken(operation, stream([*data, chunk({}, "tool_calls")]))
    assert failed is Kind.GARBLED


@pytest.mark.parametrize("operation", DIALECTS)
@pytest.mark.parametrize("known", ["c2", None])
def test_a_call_behind_text_is_another_one_though_the_engine_counts_from_0_again(
    operation: Operation, known: str | None
) -> None:
    made = streamed(
        operation,
        calls(call(0, '{"a":1}', "get", "c1")),
        chunk({"content": "and"}),
        calls(call(0, '{"a":2}', "get" if known else "put", known)),
        chunk({}, "tool_calls"),
    )
    assert [arguments for _, arguments in called(operation, made)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("operation", DIALECTS)
def test_empty_texts_between_the_pieces_of_a_call_are_nothing(operation: Operation) -> None:
    made = streamed(
        operation,
        chunk({"role": "assistant", "content": ""}),
        calls(call(None, "", "get", "c1")),
        chunk({"content": "", "reasoning_content": None}),
        calls(call(None, '{"a":')),
        chunk({"content": ""}),
        calls(call(None, "1}")),
        chunk({"content": ""}, "tool_calls"),
    )
    assert called(operation, made) == [("get", {"a": 1})]


@pytest.mark.parametrize("operation", DIALECTS)
@pytest.mark.parametrize("id", ["same", "none"])
def test_pieces_that_repeat_their_name_are_one_call(operation: Operation, id: str) -> None:
    known = "c1" if id == "same" else None
    parts = [calls(call(0, part, "get", known)) for part in ('{"a"', ":", "1}")]
    assert called(operation, streamed(operation, *parts, chunk({}, "tool_calls"))) == [("get", {"a": 1})]


def counts(operation: Operation, made: list[dict[str, Any]]) -> tuple[int, int]:
    last = made[-1]
    if operation is OLLAMA:
        return last["prompt_eval_count"], last["eval_count"]
    if operation is GEMINI:
        return last["usageMetadata"]["promptTokenCount"], last["usageMetadata"]["candidatesTokenCount"]
    usage = made[-2]["usage"] if operation is MESSAGES else last["response"]["usage"]
    return usage["input_tokens"], usage["output_tokens"]


@pytest.mark.parametrize("operation", DIALECTS)
def test_counts_may_come_before_the_end_or_behind_it_or_with_it(operation: Operation) -> None:
    text = [chunk({"content": "a"}), chunk({"content": "b"})]
    beside = chunk({}, "stop") | {"usage": counted(3, 2)["usage"]}
    for events in ([*text, *END], [*text, counted(3, 2), chunk({}, "stop")], [*text, beside]):
        assert counts(operation, streamed(operation, *events)) == (3, 2)


@pytest.mark.parametrize("operation", DIALECTS)
def test_where_the_engine_counts_nothing_its_pieces_are_counted(operation: Operation) -> None:
    made = streamed(operation, chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"))
    assert counts(operation, made) == (0, 2)


def test_counts_of_a_cache_are_apart_in_anthropics_stream_too() -> None:
    made = streamed(MESSAGES, chunk({"content": "a"}), chunk({}, "stop"), counted(9, 2, cached=4))
    usage = made[-2]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (5, 4)


def test_the_beginning_of_a_message_tells_what_the_first_event_counts() -> None:
    first = chunk({"content": "a"}) | {"usage": counted(9, 1, cached=4)["usage"]}
    usage = streamed(MESSAGES, first, *END)[0]["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (5, 4, 1)
    usage = streamed(MESSAGES, chunk({"content": "a"}), *END)[0]["message"]["usage"]
    assert usage == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("operation", DIALECTS)
def test_arguments_that_a_limit_has_cut_are_an_answer(operation: Operation) -> None:
    function = {"name": "get", "arguments": '{"a": 1, "b": "half'}
    message = {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    made = chatting.whole(operation, ASKED[operation] | {"stream": False}, message, "length")
    if operation is MESSAGES:
        assert made["content"][0]["input"] == {"a": 1, "b": "half"} and made["stop_reason"] == "max_tokens"
    elif operation is RESPONSES:
        assert made["output"][0]["arguments"] == function["arguments"] and made["status"] == "incomplete"
    elif operation is GEMINI:
        (candidate,) = made["candidates"]
        assert candidate["content"]["parts"][0]["functionCall"]["args"] == {"a": 1, "b": "half"}
        assert candidate["finishReason"] == "MAX_TOKENS"
    else:
        (one,) = made["message"]["tool_calls"]
        assert one["function"]["arguments"] == {"a": 1, "b": "half"} and made["done_reason"] == "length"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "{}"),
        ('{"a": 1, "b": "half', '{"a":1,"b":"half"}'),
        ('{"a": 1}', '{"a": 1}'),
        ("[1]", '{"arguments":"[1]"}'),
        ("no JSON", '{"arguments":"no JSON"}'),
    ],
)
def test_arguments_that_were_cut_spoil_no_later_turn(arguments: str, told: str) -> None:
    """Engines whose templates read them refuse what is no object, and with it all that follows."""
    item = {"type": "function_call", "call_id": "c1", "name": "get", "arguments": arguments}
    made = said(RESPONSES, {"model": "m", "input": [item]})["messages"]
    assert made[0]["tool_calls"][0]["function"]["arguments"] == told
    call = {"function": {"name": "get", "arguments": arguments}}
    made = said(OLLAMA, ASKED[OLLAMA] | {"messages": [{"role": "assistant", "tool_calls": [call]}]})[
        "messages"
    ]
    assert made[0]["tool_calls"][0]["function"]["arguments"] == told
    turns = [{"role": "assistant", "content": [CALL | {"input": arguments}]}]
    made = said(MESSAGES, ASKED[MESSAGES] | {"messages": turns})["messages"]
    assert made[0]["tool_calls"][0]["function"]["arguments"] == told


@pytest.mark.parametrize("operation", DIALECTS)
def test_a_call_whose_arguments_are_an_object_is_read(operation: Operation) -> None:
    """As engines with an older parser send it."""
    parts = {"index": 0, "id": "c1", "function": {"name": "get", "arguments": {"a": 1}}}
    made = streamed(operation, chunk({"tool_calls": [parts]}), chunk({}, "tool_calls"))
    assert called(operation, made) == [("get", {"a": 1})]


@pytest.mark.parametrize("operation", DIALECTS)
@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
def test_an_answer_that_says_nothing_has_nothing_empty_in_it(operation: Operation, content: Any) -> None:
    made = chatting.whole(operation, ASKED[operation] | {"stream": False}, {"content": content})
    if operation is OLLAMA:
        assert made["message"] == {"role": "assistant", "content": ""} and made["done"] is True
    elif operation is GEMINI:
        assert made["candidates"][0]["content"]["parts"] == [{"text": ""}], "clients look at its parts"
    else:
        assert made["content" if operation is MESSAGES else "output"] == []


CALL = {"type": "tool_use", "id": "t1", "name": "get", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}


def test_calls_and_results_without_tools_are_history() -> None:
    """Agents ask for titles and summaries so: the tools are gone, what was called is not."""
    turns = [*HI, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]
    made = said(MESSAGES, ASKED[MESSAGES] | {"messages": turns})
    assert [turn["role"] for turn in made["messages"]] == [
        "user",
        "assistant",
        "tool",
    ] and "tools" not in made
    items = [
        {"type": "function_call", "call_id": "t1", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t1", "output": "42"},
    ]
    made = said(RESPONSES, {"model": "m", "input": items})
    assert [turn["role"] for turn in made["messages"]] == ["assistant", "tool"] and "tools" not in made
    turns = [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get", "arguments": {}}}]},
        {"role": "tool", "tool_name": "get", "content": "42"},
    ]
    made = said(OLLAMA, ASKED[OLLAMA] | {"messages": turns})
    assert made["messages"][0]["tool_calls"][0]["function"]["arguments"] == "{}" and "tools" not in made


def test_the_results_of_one_turn_stay_together_before_what_the_user_says() -> None:
    both = [CALL, CALL | {"id": "t2", "input": {"a": 1}}]
    told = [
        {"type": "text", "text": "and?"},
        RESULT | {"tool_use_id": "t2", "is_error": True, "content": "no"},
        RESULT,
    ]
    turns = [*HI, {"role": "assistant", "content": both}, {"role": "user", "content": told}]
    made = said(MESSAGES, ASKED[MESSAGES] | {"messages": turns})["messages"]
    assert [turn["role"] for turn in made] == ["user", "assistant", "tool", "tool", "user"]
    assert len(made[1]["tool_calls"]) == 2 and made[2]["content"] == "Error: no"


MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "global"}}
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def test_marks_for_a_cache_are_taken_on_every_block() -> None:
    text = {"type": "text", "text": "a"}
    blocks: list[dict[str, Any]] = [
        text,
        {"type": "image", "source": PNG},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "b"}},
        {"type": "search_result", "title": "t", "source": "s", "content": [text]},
        RESULT | {"content": [text | MARK]},
    ]
    answer = [text | MARK, CALL | MARK, {"type": "thinking", "thinking": "h", "signature": "x"} | MARK]
    tool = {"name": "get", "input_schema": {"type": "object"}} | MARK
    body = ASKED[MESSAGES] | MARK | {"system": [text | MARK], "tools": [tool]}
    body |= {
        "messages": [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": [block | MARK for block in blocks]},
        ]
    }
    found = translation(MESSAGES, body)
    assert b"cache_control" not in found.said.body and found.dropped == ()


@pytest.mark.parametrize("wish", [False, True])
def test_one_call_at_a_time_needs_no_choice_of_a_tool(wish: bool) -> None:
    function = {"type": "function", "name": "get", "parameters": {"type": "object"}}
    made = said(RESPONSES, {"model": "m", "input": "hi", "tools": [function], "parallel_tool_calls": wish})
    assert made["parallel_tool_calls"] is wish and "tool_choice" not in made
    tool = {"name": "get", "input_schema": {"type": "object"}}
    choice = {"type": "auto", "disable_parallel_tool_use": not wish}
    made = said(MESSAGES, ASKED[MESSAGES] | {"tools": [tool], "tool_choice": choice})
    assert made.get("parallel_tool_calls", True) is wish


def test_what_an_agent_says_of_its_user_goes_on_and_nothing_else_of_its_metadata() -> None:
    user = json.dumps({"device_id": "d", "session_id": "s"})
    metadata = {"user_id": user, "trace": "secret"}
    made = said(MESSAGES, ASKED[MESSAGES] | {"metadata": metadata})
    assert made["user"] == user and "metadata" not in made and "secret" not in json.dumps(made)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"role": "assistant", "content": "a", "phase": "commentary", "status": "incomplete"}, "a"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, "no"),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [{}], "logprobs": []},
                    {"type": "output_text", "text": "b"},
                ],
            },
            "ab",
        ),
    ],
)
def test_answers_come_back_as_they_were_told(item: dict[str, Any], told: str) -> None:
    body = {"model": "m", "input": [{"type": "message", "id": "msg_1"} | item]}
    assert said(RESPONSES, body)["messages"] == [{"role": "assistant", "content": told}]
    unknown = {"type": "hologram", "id": "x", "content": [{"type": "odd"}]}
    assert said(RESPONSES, {"model": "m", "input": [unknown, *HI]})["messages"] == HI


def test_what_a_stream_has_said_is_told_again_at_every_end() -> None:
    made = streamed(
        RESPONSES, chunk({"content": "a"}), chunk({"content": "b"}), chunk({"refusal": "c"}), *END
    )
    ends = {event["type"]: event for event in made if event["type"].endswith(".done")}
    assert ends["response.output_text.done"]["text"] == "ab"
    assert ends["response.refusal.done"]["refusal"] == "c"
    parts = [event["part"] for event in made if event["type"] == "response.content_part.done"]
    items = [event["item"] for event in made if event["type"] == "response.output_item.done"]
    assert [part.get("text", part.get("refusal")) for part in parts] == ["ab", "c"]
    assert [item["content"] for item in items] == [[part] for part in parts]
    assert made[-1]["response"]["output"] == items and {item["id"] for item in items}.isdisjoint({""})

"""The edits of requests that several engines need: what is changed, what is refused, and what keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, RequestError
from backends.dialect import edits, rewrite
from backends.dialect.edits import Members


def members(**body: Any) -> Members:
    return rewrite.members(json.dumps(body).encode())


def told(found: Members) -> Any:
    return json.loads(rewrite.joined(found))


def test_a_null_is_nothing() -> None:
    found = edits.without_nulls(members(a=None, b=[None], c={"d": None}, e=0))
    assert told(found) == {"b": [None], "c": {"d": None}, "e": 0}


@pytest.mark.parametrize("idle", [None, False, 0, 0.0, "", [], {}])
def test_what_asks_for_nothing_is_dropped_and_not_refused(idle: object) -> None:
    found = members(echo=idle, n=2)
    edits.refuse(found, ("echo", "suffix"))
    assert told(found) == {"n": 2}


@pytest.mark.parametrize("value", [True, 1, "x", [0], {"a": 0}])
def test_what_would_be_ignored_is_refused_by_name(value: object) -> None:
    with pytest.raises(RequestError) as error:
        edits.refuse(members(echo=value), ("echo",))
    failure = error.value.failure
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, "echo") and "'echo'" in failure.message


@pytest.mark.parametrize(
    ("given", "found", "left"),
    [
        ("a", ["a"], "a"),
        (["a", "b"], ["a", "b"], ["a", "b"]),
        (["", "b"], ["b"], ["b"]),
        ("", [], None),
        ([""], [], None),
        ([], [], None),
        (7, [], 7),
    ],
)
def test_an_empty_stop_string_is_none(given: object, found: list[str], left: object) -> None:
    body = members(stop=given)
    assert edits.stops(body, "stop") == found
    assert told(body).get("stop") == left


@pytest.mark.parametrize(
    ("seed", "kept"), [(7, 7), (-1, (1 << 64) - 1), (1 << 64, 0), (1.5, 1.5), ("x", "x")]
)
def test_a_number_that_does_not_fit_becomes_one_that_does(seed: object, kept: object) -> None:
    body = members(seed=seed)
    edits.within(body, "seed", 0, (1 << 64) - 1)
    assert told(body)["seed"] == kept


@pytest.mark.parametrize(
    ("prompt", "count", "left"),
    [
        ("a", 1, "a"),
        (["a"], 1, "a"),
        (["a", "b"], 2, ["a", "b"]),
        ([1, 2], 1, [1, 2]),
        ([[1], [2]], 2, [[1], [2]]),
    ],
)
def test_prompts_are_counted_and_a_list_of_one_is_that_one(prompt: object, count: int, left: object) -> None:
    body = members(prompt=prompt)
    assert edits.prompts(body, tokens=True) == count
    assert told(body)["prompt"] == left


@pytest.mark.parametrize(("prompt", "kind"), [([], Kind.REJECTED), ([1], Kind.UNSUPPORTED)])
def test_prompts_that_are_none(prompt: object, kind: Kind) -> None:
    with pytest.raises(RequestError) as error:
        edits.prompts(members(prompt=prompt), tokens=False)
    assert error.value.failure.kind is kind


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]


def test_a_named_tool_stands_alone() -> None:
    choice = {"type": "function", "function": {"name": "b"}}
    body = members(tools=TOOLS, tool_choice=choice)
    edits.force(body, b'"required"')
    assert told(body) == {"tools": TOOLS[1:], "tool_choice": "required"}
    flat = [{"type": "function", "name": "a"}, {"type": "function", "name": "b"}]
    body = members(tools=flat, tool_choice={"type": "function", "name": "a"})
    edits.force(body, b'"required"', flat=True)
    assert told(body) == {"tools": flat[:1], "tool_choice": "required"}


@pytest.mark.parametrize(
    "choice", ["auto", "required", "none", {"type": "allowed_tools"}, {"type": "function"}, 7]
)
def test_any_other_choice_of_tools_is_kept(choice: object) -> None:
    body = members(tools=TOOLS, tool_choice=choice)
    edits.force(body, b'"required"')
    assert told(body) == {"tools": TOOLS, "tool_choice": choice}


def test_a_named_tool_must_be_there() -> None:
    with pytest.raises(RequestError) as error:
        edits.force(
            members(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "c"}}), b'"required"'
        )
    assert (error.value.failure.kind, error.value.failure.param) == (Kind.REJECTED, "tool_choice")


def messages(*said: Any) -> Any:
    body = members(messages=list(said))
    edits.messages(body)
    return told(body)["messages"]


def test_messages_that_engines_understand_keep_their_bytes() -> None:
    body = b'[ {"role": "user", "content": "a"}, {"role":"assistant","content":null,"tool_calls":[]} ]'
    found = {"messages": body}
    edits.messages(found)
    assert found["messages"] is body


HALF = '{"a": 1, "b": "half'
MENDED = '{"a":1,"b":"half"}'


def calling(arguments: str) -> dict[str, Any]:
    function = {"name": "get", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}


@pytest.mark.parametrize(("said", "right"), [(HALF, MENDED), ("", "{}"), ("[1]", '{"arguments":"[1]"}')])
def test_arguments_of_earlier_calls_are_objects(said: str, right: str) -> None:
    user = {"role": "developer", "content": "a"}
    body = members(messages=[user, calling(said)])
    edits.past_calls(body)
    assert told(body)["messages"] == [user, calling(right)]
    item = {"type": "function_call", "call_id": "c", "name": "get"}
    body = members(input=["odd", user, item | {"arguments": said}, item])
    edits.past_items(body)
    assert told(body)["input"] == ["odd", user, item | {"arguments": right}, item]


@pytest.mark.parametrize("history", ["x", {"arguments": ""}, [calling('{"a": 1}')], [1, '"arguments"'], None])
def test_a_history_without_such_keeps_its_bytes(history: Any) -> None:
    body = members(messages=history, input=history)
    before = dict(body)
    edits.past_calls(body)
    edits.past_items(body)
    assert body == before and body["input"] is before["input"] and body["messages"] is before["messages"]


def test_a_developer_is_the_system() -> None:
    assert messages({"role": "developer", "content": "a", "name": "n"}) == [
        {"role": "system", "content": "a", "name": "n"}
    ]


def test_texts_in_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]
    assert messages({"role": "user", "content": parts}) == [{"role": "user", "content": "What is it?"}]
    picture = [*parts, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert messages({"role": "user", "content": picture}) == [{"role": "user", "content": picture}]


@pytest.mark.parametrize(
    "content",
    [
        [{"text": "a"}],
        [{"type": "input_text", "text": "a"}],
        [{"type": "refusal", "refusal": "a"}],
        {"text": "a"},
    ],
)
def test_a_content_that_would_be_lost_is_refused(content: object) -> None:
    with pytest.raises(RequestError) as error:
        messages({"role": "user", "content": content})
    assert (error.value.failure.kind, error.value.failure.param) == (Kind.REJECTED, "messages")


def test_arguments_are_an_object() -> None:
    def call(arguments: object) -> dict[str, object]:
        return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    said = {"role": "assistant", "content": "", "tool_calls": [call(""), call('{"a":1}')]}
    assert messages(said)[0]["tool_calls"] == [call("{}"), call('{"a":1}')]
    assert messages({**said, "tool_calls": [call('{"a":"b')]})[0]["tool_calls"] == [call('{"a":"b"}')]
    assert messages({**said, "tool_calls": [call("x")]})[0]["tool_calls"] == [call('{"arguments":"x"}')]
    assert messages({**said, "tool_calls": [call({"a": 1})]})[0]["tool_calls"] == [call('{"a":1}')]


@pytest.mark.parametrize("raw", [b"7", b'"a"', b"[7]", b'[{"role":7,"content":[7]}]', b"[" * 5000])
def test_messages_that_cannot_be_read_are_left_to_the_engine(raw: bytes) -> None:
    found = {"messages": raw}
    edits.messages(found)
    assert found["messages"] == raw


@pytest.mark.parametrize(
    ("last", "begins"),
    [
        ({"role": "assistant", "content": "The"}, True),
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, False),
        ({"role": "user", "content": "The"}, False),
    ],
)
def test_an_answer_may_have_begun(last: object, begins: bool) -> None:
    assert edits.ends_with_an_answer(members(messages=[{"role": "user", "content": "a"}, last])) is begins


def test_a_forced_tool_is_held_to_its_schema() -> None:
    body = members(tools=TOOLS, tool_choice="required")
    edits.hold_to_schema(body)
    assert [tool["function"]["strict"] for tool in told(body)["tools"]] == [True, True]
    body = members(
        tools=[{"type": "function", "function": {"name": "a", "strict": False}}], tool_choice="required"
    )
    edits.hold_to_schema(body)
    assert told(body)["tools"][0]["function"]["strict"] is False
    body = members(tools=TOOLS, tool_choice="auto")
    edits.hold_to_schema(body)
    assert told(body)["tools"] == TOOLS

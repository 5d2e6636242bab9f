"""Tools of OpenAI's Responses API that a chat has no words for, and their calls: as Codex 0.171 sends them."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Operation, RequestError
from tests.conformance import sdk
from tests.surfaces import chatting
from tests.surfaces.chatting import chunk

WORD = {
    "type": "function",
    "name": "secret_word",
    "description": "Tells the word.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}
RUN = {"type": "custom", "name": "exec", "description": "Runs code."}
WORDS = {"type": "namespace", "name": "mcp__words", "description": "About words.", "tools": [WORD, RUN]}
FIND = {"type": "function", "name": "find", "parameters": {"type": "object"}}
SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
SEARCHED = {
    "type": "tool_search_call",
    "id": "tsc_1",
    "call_id": "c1",
    "execution": "client",
    "arguments": {"query": "word"},
}
FOUND = {"type": "tool_search_output", "call_id": "c1", "execution": "client", "tools": [WORDS]}
USER = {"role": "user", "content": "hi"}


def asked(*items: Any, **more: Any) -> dict[str, Any]:
    return chatting.said(Operation.RESPONSES, {"model": "m", "input": [USER, *items]} | more)


def names(body: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in body["tools"]]


def answered(name: str, arguments: str, *items: Any, **more: Any) -> dict[str, Any]:
    """Return the item of a call, the same whole and streamed; its ids are left out."""
    body = {"model": "m", "input": [USER, *items]} | more
    function = {"name": name, "arguments": arguments}
    calls = [{"id": "c1", "type": "function", "function": function}]
    whole = chatting.whole(Operation.RESPONSES, body, {"content": None, "tool_calls": calls}, "tool_calls")
    sdk.fits(whole)
    found = chatting.translation(Operation.RESPONSES, body | {"stream": True})
    begin = {"index": 0, "id": "c1", "function": {"name": name, "arguments": arguments[:4]}}
    rest = {"index": 0, "function": {"arguments": arguments[4:]}}
    stream = [chunk({"tool_calls": [piece]}) for piece in (begin, rest)]
    made = chatting.events(chatting.streamed(found, chatting.stream([*stream, chunk({}, "tool_calls")])))
    for event in made:
        sdk.fits_response_event(event)
    (streamed,) = made[-1]["response"]["output"]
    item: dict[str, Any]
    (item,) = whole["output"]
    added, done = [event["item"] for event in made if event["type"].startswith("response.output_item.")]
    assert done == streamed and added["id"] == done["id"] and added["status"] == "in_progress"
    same = [name for name in done if name not in ("status", "arguments", "input")]
    assert {name: added[name] for name in same} == {name: done[name] for name in same}
    assert not added.get("arguments") and not added.get("input")
    for told in [event for event in made if event["type"] == "response.function_call_arguments.done"]:
        assert told["name"] == done["name"]
    del item["id"], streamed["id"]
    assert item == streamed
    return item


def test_tools_within_a_namespace_are_functions() -> None:
    body = asked(tools=[FIND, WORDS])
    assert names(body) == ["find", "mcp__words__secret_word", "mcp__words__exec"]
    word, run = [tool["function"] for tool in body["tools"][1:]]
    assert word["description"] == "About words.\n\nTells the word." and run["description"] == "Runs code."
    assert word["parameters"] == WORD["parameters"] and word["strict"] is False
    assert run["parameters"]["required"] == ["input"]


def test_the_name_of_a_namespace_may_bring_what_stands_between() -> None:
    words = WORDS | {"name": "mcp__words__"}
    assert names(asked(tools=[words])) == ["mcp__words__secret_word", "mcp__words__exec"]
    item = answered("mcp__words__secret_word", "{}", tools=[words])
    assert (item["namespace"], item["name"]) == ("mcp__words__", "secret_word")


def test_a_call_tells_its_namespace_apart_again() -> None:
    about = {"call_id": "c1", "status": "completed", "namespace": "mcp__words"}
    assert answered("mcp__words__secret_word", '{"a":"b"}', tools=[WORDS]) == about | {
        "type": "function_call",
        "name": "secret_word",
        "arguments": '{"a":"b"}',
    }
    assert answered("mcp__words__exec", '{"input":"1"}', tools=[WORDS]) == about | {
        "type": "custom_tool_call",
        "name": "exec",
        "input": "1",
    }


def test_a_function_whose_name_looks_like_a_namespaces_stays_one() -> None:
    item = answered("mcp__words__secret_word", "{}", tools=[FIND])
    assert item["name"] == "mcp__words__secret_word" and "namespace" not in item


def test_calls_of_earlier_turns_have_the_names_of_the_chat() -> None:
    named = {"namespace": "mcp__words", "call_id": "c1"}
    calls = (
        {"type": "function_call", "name": "secret_word", "arguments": "{}", **named},
        {"type": "custom_tool_call", "name": "exec", "input": "1", **named},
    )
    answer = asked(*calls, tools=[WORDS])["messages"][1]
    assert [call["function"]["name"] for call in answer["tool_calls"]] == names(asked(tools=[WORDS]))


def test_tools_that_come_with_the_conversation_are_tools() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [FIND, WORDS]}
    body = asked(brought, tool_choice="auto")
    assert names(body) == ["find", "mcp__words__secret_word", "mcp__words__exec"]
    assert body["tool_choice"] == "auto" and len(body["messages"]) == 1
    assert answered("mcp__words__exec", '{"input":"1"}', brought)["type"] == "custom_tool_call"


def test_a_search_for_tools_that_the_client_runs_is_a_function() -> None:
    (tool,) = asked(tools=[SEARCH])["tools"]
    assert tool["function"] == {
        "name": "tool_search",
        "description": "Finds tools.",
        "parameters": SEARCH["parameters"],
    }
    expected = {key: value for key, value in SEARCHED.items() if key != "id"} | {"status": "completed"}
    assert answered("tool_search", '{"query":"word"}', tools=[SEARCH]) == expected
    assert answered("tool_search", '["word"]', tools=[SEARCH])["arguments"] == {}


def test_what_a_search_has_found_can_be_called() -> None:
    body = asked(SEARCHED, FOUND, SEARCHED, FOUND, tools=[SEARCH])
    assert names(body) == ["tool_search", "mcp__words__secret_word", "mcp__words__exec"]
    answer, result = body["messages"][1:3]
    (call,) = answer["tool_calls"]
    assert call["id"] == result["tool_call_id"] == "c1"
    assert call["function"] == {"name": "tool_search", "arguments": '{"query":"word"}'}
    assert "mcp__words__secret_word, mcp__words__exec" in result["content"]
    item = answered("mcp__words__secret_word", "{}", SEARCHED, FOUND, tools=[SEARCH])
    assert item["namespace"] == "mcp__words"


def test_a_search_that_has_found_nothing_says_so() -> None:
    result = asked(SEARCHED, FOUND | {"tools": []}, tools=[SEARCH])["messages"][2]
    assert result["content"] == "No tool was found."


def test_a_search_that_openais_service_runs_is_left_out() -> None:
    hosted = {"type": "tool_search"}
    found = chatting.translation(Operation.RESPONSES, {"model": "m", "input": "hi", "tools": [hosted, FIND]})
    assert found.dropped == ("tool_search",)
    server = {"execution": "server", "call_id": None}
    assert len(asked(SEARCHED | server, FOUND | server, tools=[FIND])["messages"]) == 1


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "secret_word"}, "mcp__words__secret_word"),
        ({"type": "function", "name": "mcp__words__secret_word"}, "mcp__words__secret_word"),
        ({"type": "custom", "name": "exec", "namespace": "mcp__words"}, "mcp__words__exec"),
        ({"type": "function", "name": "find"}, "find"),
        ({"type": "tool_search"}, "tool_search"),
    ],
)
def test_a_tool_that_is_forced_has_the_name_of_the_chat(choice: dict[str, Any], name: str) -> None:
    body = asked(tools=[FIND, WORDS, SEARCH], tool_choice=choice)
    assert body["tool_choice"]["function"]["name"] == name


@pytest.mark.parametrize(
    ("allowed", "kept"),
    [
        ({"type": "namespace", "name": "mcp__words"}, ["mcp__words__secret_word", "mcp__words__exec"]),
        ({"type": "function", "name": "secret_word"}, ["mcp__words__secret_word"]),
        ({"type": "tool_search"}, ["tool_search"]),
        ({"type": "function", "name": "find"}, ["find"]),
    ],
)
def test_tools_that_are_allowed(allowed: dict[str, Any], kept: list[str]) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [allowed]}
    assert names(asked(tools=[FIND, WORDS, SEARCH], tool_choice=choice)) == kept


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"tools": [{"type": "namespace", "tools": [WORD]}]}, "tools.0.name"),
        ({"tools": [WORDS | {"tools": [{"type": "function"}]}]}, "tools.0.tools.0.name"),
        ({"tools": [WORDS, WORD | {"name": "mcp__words__secret_word"}]}, "tools.1"),
        ({"input": [USER, {"type": "additional_tools", "tools": [{}]}]}, "input.1.tools.0.type"),
        ({"tools": [FIND], "tool_choice": {"type": "tool_search"}}, "tool_choice.type"),
    ],
)
def test_a_mistake_is_told_with_its_place(more: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(**more)
    assert caught.value.failure.param == place

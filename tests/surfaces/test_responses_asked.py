"""Requests of OpenAI's Responses API, said as chats: each case is one that real clients send."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from backends.base import Operation, RequestError
from tests.surfaces.chatting import said, translation

FUNCTION = {"type": "function", "name": "get", "description": "Gets.", "parameters": {"type": "object"}}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}


def asked(*items: Any, **more: Any) -> dict[str, Any]:
    return said(Operation.RESPONSES, {"model": "m", "input": list(items) or "hi"} | more)


def talked(*items: Any, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(*items, **more)["messages"]
    return found


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(said: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": said}


def dropped(**more: Any) -> tuple[str, ...]:
    return translation(Operation.RESPONSES, {"model": "m", "input": "hi"} | more).dropped


def refused(*items: Any, **more: Any) -> str | None:
    """Return the place of the mistake."""
    with pytest.raises(RequestError) as caught:
        asked(*items, **more)
    failure = caught.value.failure
    assert failure.param is not None and failure.param in failure.message
    return failure.param


def test_the_least() -> None:
    assert asked() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stream_asks_for_its_counts() -> None:
    assert asked(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_what_developers_say_is_one_system_text(role: str) -> None:
    late = {"type": "message", "role": role, "content": [text("and kind")]}
    assert talked(user(text("hi")), late, instructions="be brief") == [
        {"role": "system", "content": "be brief\n\nand kind"},
        {"role": "user", "content": "hi"},
    ]


def test_pictures_and_sound() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    (message,) = talked(user(text("look"), PICTURE, sound))
    assert message["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        sound,
    ]


def file(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {
        "type": "input_file",
        "file_data": f"data:{kind};base64,{base64.b64encode(data).decode()}",
        **more,
    }


@pytest.mark.parametrize(
    "kind", ["text/csv", "text/markdown", "application/json", "application/octet-stream"]
)
def test_files_are_read_as_text(kind: str) -> None:
    parts = file(kind, b"a,b", filename="x.csv"), file(kind, b"c,d", filename="x.csv"), file(kind, b"e")
    assert talked(user(*parts))[0]["content"] == "x.csv\na,b\nx.csv\nc,d\ne"


@pytest.mark.parametrize(
    ("part", "member"),
    [
        (file("application/pdf", b"%PDF"), "file_data"),
        (file("application/octet-stream", b"\xff\xfe"), "file_data"),
        ({"type": "input_file", "file_data": "hello"}, "file_data"),
        ({"type": "input_file", "file_data": "data:text/plain;base64,%%%"}, "file_data"),
        ({"type": "input_file", "file_url": "http://127.0.0.1/a"}, "file_url"),
        ({"type": "input_file", "file_id": "f"}, "file_id"),
        ({"type": "input_image", "file_id": "f"}, "file_id"),
        ({"type": "input_image"}, "image_url"),
        ({"type": "odd"}, "type"),
        ({}, "type"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(part: Any, member: str) -> None:
    assert refused(user(text("hi"), part)) == f"input.0.content.1.{member}"


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


def test_calls_in_a_row_are_one_message_with_what_was_said_before() -> None:
    other = CALL | {"id": "fc_2", "call_id": "c2", "arguments": ""}
    before = {
        "type": "message",
        "role": "assistant",
        "phase": "final",
        "content": [text("let me see", "output_text")],
    }
    messages = talked(
        user(text("hi")), before, CALL, other, OUTPUT, OUTPUT | {"call_id": "c2"}, user(text("and?"))
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    answer = messages[1]
    assert answer["content"] == "let me see"
    assert [call["id"] for call in answer["tool_calls"]] == ["c1", "c2"]
    assert [call["function"]["arguments"] for call in answer["tool_calls"]] == ['{"a":1}', "{}"]
    assert messages[2] == {"role": "tool", "tool_call_id": "c1", "content": "42"}


def test_a_picture_in_a_result_follows_as_the_users() -> None:
    tool, pictures = talked(CALL, OUTPUT | {"output": [PICTURE]})[1:]
    assert "image" in tool["content"]
    assert pictures["role"] == "user" and pictures["content"][0]["type"] == "image_url"


def test_thoughts_belong_to_the_answer_that_follows() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [text("hm", "reasoning_text")]}
    (message,) = talked(thought, CALL)
    assert message["reasoning_content"] == message["reasoning"] == "hm" and message["tool_calls"]
    summed = {"type": "reasoning", "summary": [text("short", "summary_text")], "encrypted_content": "x"}
    assert talked(summed, CALL)[0]["reasoning_content"] == "short"


def test_a_refusal_of_an_earlier_turn_is_text() -> None:
    answer = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert talked(user(text("hi")), answer)[1] == {"role": "assistant", "content": "no"}


@pytest.mark.parametrize("kind", ["web_search_call", "compaction", "mcp_list_tools", "something_new"])
def test_items_of_openais_own_service_are_left_out(kind: str) -> None:
    assert talked({"type": kind, "id": "x"}, user(text("hi"))) == [{"role": "user", "content": "hi"}]


def test_tools() -> None:
    body = asked(tools=[FUNCTION | {"strict": True}])
    function = {"name": "get", "description": "Gets.", "strict": True, "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    (tool,) = asked(tools=[PATCH])["tools"]
    function = tool["function"]
    assert function["name"] == "apply_patch" and "start: /.+/" in function["description"]
    assert function["parameters"]["required"] == ["input"]
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    answer, result = talked(call, output, tools=[PATCH])
    assert answer["tool_calls"][0]["function"]["arguments"] == '{"input":"*** Begin"}'
    assert result["tool_call_id"] == "c1"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "get"}, {"type": "function", "function": {"name": "get"}}),
        (
            {"type": "custom", "name": "apply_patch"},
            {"type": "function", "function": {"name": "apply_patch"}},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get"}]},
            "required",
        ),
    ],
)
def test_which_tool_is_to_be_called(choice: Any, told: Any) -> None:
    body = asked(tools=[FUNCTION, PATCH], tool_choice=choice)
    assert body["tool_choice"] == told
    assert len(body["tools"]) == (1 if isinstance(choice, dict) and "tools" in choice else 2)


SEARCH = {"type": "web_search"}


def test_tools_that_only_openai_has_are_left_out_and_named() -> None:
    assert dropped(tools=[SEARCH, SEARCH, FUNCTION]) == ("web_search",)
    assert len(dropped(tools=[{"type": f"tool_{number}"} for number in range(99)])) == 16
    assert dropped(tools=[{"type": "a" * 65}, {"type": "a b"}]) == ()
    assert "tools" not in asked(tools=[SEARCH], tool_choice="auto", parallel_tool_calls=True)
    assert refused(tools=[SEARCH, FUNCTION], tool_choice={"type": "web_search"}) == "tool_choice.type"
    assert refused(tools=[SEARCH], tool_choice="required") == "tool_choice"


@pytest.mark.parametrize(
    ("effort", "more"),
    [
        ("low", {"reasoning_effort": "low"}),
        ("minimal", {"reasoning_effort": "low"}),
        ("xhigh", {"reasoning_effort": "high"}),
        ("max", {"reasoning_effort": "high"}),
        ("none", {"chat_template_kwargs": {"enable_thinking": False}}),
    ],
)
def test_effort(effort: str, more: dict[str, Any]) -> None:
    body = asked(reasoning={"effort": effort, "summary": "auto"})
    assert body | more == body and ("reasoning_effort" in body) is (effort != "none")


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {}, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        ),
    ],
)
def test_the_form_of_the_answer(form: Any, told: Any) -> None:
    assert asked(text={"format": form}).get("response_format") == told


def test_members_that_mean_the_same() -> None:
    body = asked(max_output_tokens=9, temperature=0.5, top_p=0.9, user="u")
    assert body | {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "user": "u"} == body


def test_members_that_clients_always_send_are_no_matter() -> None:
    usual = {
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "truncation": "disabled",
        "previous_response_id": None,
        "background": False,
        "text": {"verbosity": "medium"},
    }
    assert dropped(**usual) == ()
    assert dropped(truncation="auto", max_tool_calls=3, text={"verbosity": "low"}) == (
        "verbosity",
        "truncation",
        "max_tool_calls",
    )


@pytest.mark.parametrize(
    ("items", "more", "place"),
    [
        ([], {"input": None}, "input"),
        ([], {"input": 5}, "input"),
        (["hi"], {}, "input.0"),
        ([user()], {}, "input"),
        ([{"type": "reasoning", "summary": []}], {}, "input"),
        ([{"role": "odd", "content": "hi"}], {}, "input.0.role"),
        ([{"role": "user"}], {}, "input.0.content"),
        ([{"role": "system", "content": [PICTURE]}], {}, "input.0.content"),
        ([{"type": "function_call", "name": "get", "arguments": "{}"}], {}, "input.0.call_id"),
        ([{"type": "function_call_output", "call_id": "c"}], {}, "input.0.output"),
        ([{"type": "item_reference", "id": "x"}], {}, "input.0"),
        ([], {"previous_response_id": "resp_1"}, "previous_response_id"),
        ([], {"conversation": "c"}, "conversation"),
        ([], {"background": True}, "background"),
        ([], {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ([], {"text": {"format": {"type": "odd"}}}, "text.format.type"),
        ([], {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ([], {"tools": [{"type": "function"}]}, "tools.0.name"),
        ([], {"tools": [FUNCTION], "tool_choice": "odd"}, "tool_choice"),
        (
            [],
            {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": []}},
            "tool_choice.tools",
        ),
        (
            [],
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "allowed_tools", "mode": "odd", "tools": [FUNCTION]},
            },
            "tool_choice.mode",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(items: list[Any], more: dict[str, Any], place: str) -> None:
    assert refused(*items, **more) == place

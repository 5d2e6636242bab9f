"""Requests of Anthropic's Messages API, said as chats: each case is one that real clients send."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Operation, RequestError
from tests.surfaces.chatting import said, translation

LEAST: dict[str, Any] = {"model": "m", "max_tokens": 9}
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": 1}}
TOOL = {"name": "get", "description": "Gets.", "input_schema": {"type": "object", "properties": {}}}


def asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return said(Operation.MESSAGES, LEAST | {"messages": list(messages)} | more)


def user(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": content}


def texts(*messages: dict[str, Any]) -> list[Any]:
    return [message["content"] for message in asked(*messages)["messages"]]


def dropped(**more: Any) -> tuple[str, ...]:
    return translation(Operation.MESSAGES, LEAST | {"messages": [user("hi")]} | more).dropped


def refused(*messages: dict[str, Any], **more: Any) -> str | None:
    """Return the place of the mistake."""
    with pytest.raises(RequestError) as caught:
        asked(*messages, **more)
    failure = caught.value.failure
    assert failure.param is not None and failure.param in failure.message
    return failure.param


def test_the_least() -> None:
    assert asked({"role": "user", "content": "hi"}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
    }


def test_a_stream_asks_for_its_counts() -> None:
    body = asked(user("hi"), stream=True)
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "system", ["be brief", [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]]
)
def test_the_system_text_stands_first(system: Any) -> None:
    messages = asked(user("hi"), system=system)["messages"]
    assert messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def test_the_line_that_books_a_request_is_no_system_text() -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.e84;"}
    messages = asked(user("hi"), system=[billing, {"type": "text", "text": "be brief"}])["messages"]
    assert messages[0] == {"role": "system", "content": "be brief"}


def test_a_system_message_among_the_others_joins_the_first_text() -> None:
    late = {"role": "system", "content": [{"type": "text", "text": "and kind"}]}
    messages = asked(user("hi"), late, user("there"), system="be brief")["messages"]
    assert messages[0] == {"role": "system", "content": "be brief\n\nand kind"}
    assert [message["role"] for message in messages[1:]] == ["user"]


def test_pictures() -> None:
    (content,) = texts(user("look", {"type": "image", "source": PNG}))
    assert content == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    (content,) = texts(user({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/a.png"}}))
    assert content == [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ({"type": "file", "file_id": "f"}, "source.type"),
        ({"type": "base64", "data": "AAAA"}, "source.media_type"),
        ({"type": "base64", "media_type": "image/png"}, "source.data"),
        ({"type": "url"}, "source.url"),
        ({}, "source.type"),
        (None, "source"),
    ],
)
def test_a_picture_that_is_none_is_refused_with_its_place(source: Any, place: str) -> None:
    assert refused(user("hi", {"type": "image", "source": source})) == f"messages.0.content.1.{place}"


@pytest.mark.parametrize(
    "source",
    [
        {"type": "text", "media_type": "text/plain", "data": "words"},
        {"type": "base64", "media_type": "text/csv", "data": "d29yZHM="},
        {"type": "content", "content": [{"type": "text", "text": "words"}]},
    ],
)
def test_documents_are_read_as_text(source: dict[str, Any]) -> None:
    (content,) = texts(user({"type": "document", "title": "notes", "source": source}))
    assert content == "notes\nwords"


def test_a_document_that_is_no_text_is_refused() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    assert refused(user({"type": "document", "source": pdf})) == "messages.0.content.0.source"


def test_empty_texts_are_left_out() -> None:
    assert texts(user("", "hi", "")) == ["hi"]
    assert texts(user("hi"), {"role": "assistant", "content": [{"type": "text", "text": ""}]}) == ["hi"]


def test_texts_of_an_answer_are_joined_as_they_are() -> None:
    parts = [{"type": "text", "text": "a", "citations": []}, {"type": "text", "text": "b"}]
    assert texts(user("hi"), {"role": "assistant", "content": parts})[1] == "ab"


def test_results_stand_behind_their_calls_and_before_the_text() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": "42",
        "cache_control": {"type": "x"},
    }
    messages = asked(user("hi"), {"role": "assistant", "content": [CALL]}, user("and?", result))["messages"]
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "42"},
        {"role": "user", "content": "and?"},
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [("failed", "Error: failed"), ("Error: failed", "Error: failed"), (None, "Error"), ([], "Error")],
)
def test_a_result_that_is_an_error_says_so_once(content: Any, text: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": content}
    assert texts(user(result)) == [text]


def test_a_picture_in_a_result_follows_in_the_users_message() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": PNG}]}
    tool, pictures = texts(user(result, "what is it?"))
    assert "image" in tool
    assert [part["type"] for part in pictures] == ["image_url", "text"]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    call = {"type": "tool_use", "id": "t", "name": "now"}
    (answer,) = asked({"role": "assistant", "content": [call]})["messages"]
    assert answer["tool_calls"][0]["function"]["arguments"] == "{}"


def test_thoughts_of_earlier_turns_are_given_back() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    gone = {"type": "redacted_thinking", "data": "x"}
    answer = {"role": "assistant", "content": [thought, gone, {"type": "text", "text": "yes"}]}
    message = asked(user("hi"), answer)["messages"][1]
    assert message == {"role": "assistant", "content": "yes", "reasoning_content": "hm", "reasoning": "hm"}


def test_turns_of_a_user_in_a_row_are_one() -> None:
    assert texts(user("a"), user("b"), user({"type": "image", "source": PNG})) == [
        [
            {"type": "text", "text": "a\nb"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ]
    ]


def test_tools() -> None:
    body = asked(user("hi"), tools=[TOOL | {"cache_control": {"type": "ephemeral"}}])
    function = {"name": "get", "description": "Gets.", "parameters": TOOL["input_schema"]}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in body and "parallel_tool_calls" not in body


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "get"}, {"type": "function", "function": {"name": "get"}}),
    ],
)
def test_which_tool_is_to_be_called(choice: dict[str, Any], chosen: Any) -> None:
    assert asked(user("hi"), tools=[TOOL], tool_choice=choice)["tool_choice"] == chosen


def test_one_call_at_a_time() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert asked(user("hi"), tools=[TOOL], tool_choice=choice)["parallel_tool_calls"] is False


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def test_tools_that_only_anthropic_has_are_left_out_and_named() -> None:
    assert dropped(tools=[SEARCH, TOOL]) == ("web_search_20250305",)
    body = asked(user("hi"), tools=[SEARCH, TOOL])
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get"]
    assert "tools" not in asked(user("hi"), tools=[SEARCH], tool_choice={"type": "auto"})


def test_one_that_is_forced_is_refused() -> None:
    choice = {"type": "tool", "name": "web_search"}
    assert refused(user("hi"), tools=[SEARCH, TOOL], tool_choice=choice) == "tool_choice.name"
    assert refused(user("hi"), tools=[SEARCH], tool_choice={"type": "any"}) == "tool_choice"


@pytest.mark.parametrize(
    ("thinking", "enabled"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive"}, True),
        ({"type": "disabled"}, False),
    ],
)
def test_thinking_is_switched(thinking: dict[str, Any], enabled: bool) -> None:
    assert asked(user("hi"), thinking=thinking)["chat_template_kwargs"] == {"enable_thinking": enabled}


@pytest.mark.parametrize(("effort", "told"), [("low", "low"), ("high", "high"), ("max", "high")])
def test_effort(effort: str, told: str) -> None:
    assert asked(user("hi"), output_config={"effort": effort})["reasoning_effort"] == told


@pytest.mark.parametrize("member", ["output_config", "output_format"])
def test_an_answer_by_a_schema(member: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    body = asked(user("hi"), **{member: {"format": form} if member == "output_config" else form})
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }


def test_members_that_mean_the_same() -> None:
    same = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 1}
    body = asked(user("hi"), **same, stop_sequences=["END"], metadata={"user_id": "u"})
    assert body | same == body and body["stop"] == ["END"] and body["user"] == "u"


def test_members_that_cannot_be_said_are_named_and_never_refused() -> None:
    assert dropped(context_management={"edits": []}, mcp_servers=[{"name": "x"}], betas=["b"]) == (
        "context_management",
        "mcp_servers",
    )
    assert dropped(thinking={"type": "enabled", "budget_tokens": 1024}) == ("budget_tokens",)
    assert dropped(thinking={"type": "adaptive"}) == dropped(thinking={"type": "disabled"}) == ()
    assert dropped(service_tier="auto", cache_control={"type": "ephemeral"}, container=None) == ()


@pytest.mark.parametrize(
    ("messages", "more", "place"),
    [
        ([user("hi")], {"max_tokens": None}, "max_tokens"),
        ([user("hi")], {"max_tokens": "9"}, "max_tokens"),
        ([user("hi")], {"stop_sequences": ["a", 1]}, "stop_sequences.1"),
        ([user("hi")], {"stop_sequences": "a"}, "stop_sequences"),
        ([{"role": "user"}], {}, "messages.0.content"),
        ([{"role": "user", "content": 5}], {}, "messages.0.content"),
        ([{"role": "user", "content": ["hi"]}], {}, "messages.0.content.0"),
        ([{"role": "user", "content": [{"text": "hi"}]}], {}, "messages.0.content.0.type"),
        ([{"role": "user", "content": [{"type": "odd"}]}], {}, "messages.0.content.0.type"),
        ([{"role": "tool", "content": "hi"}], {}, "messages.0.role"),
        (["hi"], {}, "messages.0"),
        ([user("")], {}, "messages"),
        ([user()], {}, "messages"),
        ([user({"type": "server_tool_use", "id": "x", "name": "x", "input": {}})], {}, "messages"),
        ([user("hi")], {"system": 5}, "system"),
        ([user("hi")], {"system": [{"type": "image"}]}, "system.0.type"),
        ([user("hi")], {"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ([user("hi")], {"tools": [TOOL], "tool_choice": {"type": "odd"}}, "tool_choice.type"),
        ([user("hi")], {"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ([user("hi")], {"thinking": {"type": "odd"}}, "thinking.type"),
        ([user("hi")], {"output_config": {"effort": "huge"}}, "output_config.effort"),
        ([user("hi")], {"output_config": {"format": {"type": "odd"}}}, "output_config.format"),
    ],
)
def test_a_mistake_is_told_with_its_place(messages: list[Any], more: dict[str, Any], place: str) -> None:
    assert refused(*messages, **more) == place

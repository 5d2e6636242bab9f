"""What TGI is asked for a client's request: forms its own router takes, and refusals of what it would ignore."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from backends.base import Kind, Operation, RequestError
from backends.engines.tgi.asked import ANY_OBJECT
from backends.engines.tgi.engine import TGI
from tests.backends.recorded import recorded, request

ENGINE = TGI()
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def chat(**more: Any) -> dict[str, Any]:
    """Return the body that TGI gets for a chat, without its model and, unless they were given, its messages."""
    given = {"messages": [{"role": "user", "content": "Hi"}], **more}
    body = json.loads(ENGINE.call(request(Operation.CHAT, **given), "up").body)
    assert body.pop("model") == "up"
    return {name: value for name, value in body.items() if name != "messages" or "messages" in more}


def completion(path: str, **more: Any) -> dict[str, Any]:
    """Return the body that TGI gets for a completion."""
    call = ENGINE.call(request(Operation.COMPLETIONS, **{"prompt": "Hi", **more}), "up")
    assert call.path == path
    return dict(json.loads(call.body))


def refused(operation: Operation, **more: Any) -> tuple[Kind, str | None]:
    given: dict[str, Any] = {"messages": []} if operation is Operation.CHAT else {"prompt": "Hi"}
    with pytest.raises(RequestError) as error:
        ENGINE.call(request(operation, **{**given, **more}), "up")
    return error.value.failure.kind, error.value.failure.param


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", ""]}, {"stop": ["a"]}),
        ({"stop": ""}, {}),
        ({"n": 1, "best_of": 1.0, "logit_bias": {}, "echo": False}, {}),
        ({"top_p": 1.0}, {}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"top_k": -1}, {}),
        ({"presence_penalty": 0}, {}),
        ({"repetition_penalty": 1.1}, {"presence_penalty": -0.9}),
        ({"seed": -1}, {"seed": (1 << 63) - 1}),
        ({"seed": 5}, {"seed": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ({"stream": None, "stream_options": None, "temperature": None, "tools": None}, {}),
        ({"stream": False, "stream_options": {"include_usage": True}}, {}),
        ({"stream": True, "stream_options": None}, STREAM),
        ({"stream": True, "stream_options": {}}, STREAM),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "regex", "value": ANY_OBJECT}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {"response_format": {"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}}},
        ),
        (
            {"response_format": {"type": "regex", "value": "a+"}},
            {"response_format": {"type": "regex", "value": "a+"}},
        ),
        ({"user": "u", "frequency_penalty": 0.5}, {"user": "u", "frequency_penalty": 0.5}),
    ],
)
def test_chats_as_tgi_takes_them(asked: dict[str, Any], gets: dict[str, Any]) -> None:
    assert chat(**asked) == gets


def test_its_router_took_these_formats() -> None:
    for name in ("chat_json_schema", "json_schema_refs"):
        form = json.loads(recorded("tgi", name).body)["response_format"]
        assert recorded("tgi", name).status.endswith(b"OK")
        assert chat(response_format={"type": "json_schema", "json_schema": form["value"]}) == {
            "response_format": form
        }


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"n": 2}, Kind.UNSUPPORTED),
        ({"best_of": 3}, Kind.UNSUPPORTED),
        ({"logit_bias": {"5": 1}}, Kind.UNSUPPORTED),
        ({"logit_bias": "many"}, Kind.REJECTED),
        ({"presence_penalty": 0.5}, Kind.UNSUPPORTED),
        ({"max_tokens": -7}, Kind.REJECTED),
        ({"max_completion_tokens": -1}, Kind.REJECTED),
        ({"suffix": "end"}, Kind.UNSUPPORTED),
    ],
)
def test_what_it_would_ignore_is_refused(operation: Operation, asked: dict[str, Any], kind: Kind) -> None:
    assert refused(operation, **asked) == (kind, next(iter(asked)))


def test_what_only_one_of_its_protocols_hears() -> None:
    assert refused(Operation.CHAT, top_k=5) == (Kind.UNSUPPORTED, "top_k")
    assert refused(Operation.CHAT, repetition_penalty="much") == (Kind.REJECTED, "repetition_penalty")
    assert refused(Operation.COMPLETIONS, logprobs=2) == (Kind.UNSUPPORTED, "logprobs")
    two = {"prompt": ["a", "b"], "response_format": {"type": "json_object"}}
    with pytest.raises(RequestError) as error:
        ENGINE.call(request(Operation.COMPLETIONS, **two), "up")
    assert error.value.failure.param == "response_format"


def test_a_json_object_of_any_form() -> None:
    wrong = ("[]", "{", '{"a"}', '{"a": 1,}', '{"a": b}', '{"a": 1} x', '{"a": "b}')
    for said in ({}, {"a": 1}, {"a": [1, "b", None], "c": {"d": -1.5e3}, "e": 'say "x" \\ é'}):
        assert re.fullmatch(ANY_OBJECT, json.dumps(said, ensure_ascii=False)), said
        assert re.fullmatch(ANY_OBJECT, json.dumps(said, indent=1)), said
    for text in wrong:
        assert not re.fullmatch(ANY_OBJECT, text), text


# --- completions


def test_streamed_completions_go_by_the_native_protocol() -> None:
    asked = {
        "max_tokens": 9,
        "temperature": 0,
        "stop": "x",
        "top_p": 1,
        "seed": 2,
        "top_k": 3,
        "stream": True,
    }
    parameters = {"max_new_tokens": 9, "do_sample": False, "stop": ["x"], "seed": 2, "top_k": 3}
    assert completion("/generate_stream", **asked) == {
        "inputs": "Hi",
        "parameters": {**parameters, "adapter_id": "up", "details": True},
    }
    warm = completion("/generate_stream", temperature=0.5, stream=True)["parameters"]
    assert warm == {"temperature": 0.5, "do_sample": True, "adapter_id": "up", "details": True}
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    whole = completion("/generate_stream", response_format=form)["parameters"]
    assert whole["grammar"] == {"type": "json_schema", "value": {"schema": SCHEMA}}


def test_what_the_native_protocol_has_no_place_for_is_told() -> None:
    asked = {"prompt": "Hi", "max_tokens": 3, "user": "u", "dry_multiplier": 0.8, "stream": True}
    assert ENGINE.call(request(Operation.COMPLETIONS, **asked), "up").dropped == ("dry_multiplier",)
    assert ENGINE.call(request(Operation.COMPLETIONS, **{**asked, "stream": False}), "up").dropped == ()


def test_the_name_of_the_base_model_is_no_adapter() -> None:
    """The router takes `tgi` for the model itself, under whichever name it was started."""
    call = ENGINE.call(request(Operation.COMPLETIONS, prompt="Hi", stream=True), "tgi")
    assert "adapter_id" not in json.loads(call.body)["parameters"]


def test_whole_completions_and_several_prompts() -> None:
    assert completion("/v1/completions", prompt=["Hi"]) == {"model": "up", "prompt": "Hi"}
    two = request(Operation.COMPLETIONS, prompt=["a", "b"], stream=True)
    call = ENGINE.call(two, "up")
    assert call.whole and json.loads(call.body) == {"model": "up", "prompt": ["a", "b"]}
    for prompt in ([1, 2], [[1], [2]]):
        assert refused(Operation.COMPLETIONS, prompt=prompt) == (Kind.UNSUPPORTED, "prompt")
    odd: Any
    for odd in (None, 5, {}):
        with pytest.raises(RequestError) as error:
            ENGINE.call(request(Operation.COMPLETIONS, prompt=odd, stream=True), "up")
        assert error.value.failure.kind is Kind.REJECTED


# --- tools and history


@pytest.mark.parametrize(
    ("choice", "whole"), [("auto", True), ("required", True), (None, True), ("none", False)]
)
def test_tools_are_asked_for_as_a_whole(choice: str | None, whole: bool) -> None:
    asked = request(Operation.CHAT, messages=[], tools=[TOOL], tool_choice=choice, stream=True)
    call = ENGINE.call(asked, "up")
    assert call.whole is whole and ("stream" in json.loads(call.body)) is not whole


def parameters(given: Any) -> Any:
    tool = {"type": "function", "function": {"name": "f", **({} if given is None else {"parameters": given})}}
    return chat(tools=[tool])["tools"][0]["function"]["parameters"]


def test_tools_have_parameters_without_references() -> None:
    assert parameters(None) == {"type": "object", "properties": {}}
    kind = {"type": "string", "enum": ["a", "b"]}
    item = {"type": "object", "properties": {"kind": {"$ref": "#/$defs/Kind", "description": "d"}}}
    given = {
        "type": "object",
        "$defs": {"Kind": kind, "Item": item},
        "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}},
    }
    inner = {"type": "object", "properties": {"kind": {**kind, "description": "d"}}}
    assert parameters(given) == {"type": "object", "properties": {"items": {"type": "array", "items": inner}}}
    assert parameters(TOOL["function"]["parameters"]) == TOOL["function"]["parameters"]


def test_parameters_that_contain_themselves_are_refused() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$defs": {"Node": node}, **node}}}
    assert refused(Operation.CHAT, tools=[tool]) == (Kind.UNSUPPORTED, "tools")


def call(arguments: Any = '{"a": "b"}') -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}


def history(**message: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", **message}]
    return dict(chat(messages=messages)["messages"][1])


@pytest.mark.parametrize("content", [None, "", []])
def test_calls_of_earlier_turns_have_no_text_beside_them(content: Any) -> None:
    """Beside any text the router loses them: 35 tokens of prompt instead of 117."""
    assert history(content=content, tool_calls=[call()]) == {
        "role": "assistant",
        "tool_calls": [call({"a": "b"})],
    }
    counted = [json.loads(recorded("tgi", name).answer)["usage"]["prompt_tokens"] for name in HISTORIES]
    assert counted == [35, 40, 130, 117]


HISTORIES = ("history_calls_empty", "history_calls_text", "history_calls_null", "history_calls_object")


def test_calls_with_a_text_are_put_into_it() -> None:
    text = history(content=[{"type": "text", "text": "Let me look."}], tool_calls=[call()])
    said, calls = text.pop("content").split("\n")
    assert (
        text == {"role": "assistant"} and said == "Let me look." and json.loads(calls) == [call({"a": "b"})]
    )


def test_odd_turns_of_the_assistant() -> None:
    assert history(content=None, tool_calls=[]) == {"role": "assistant", "content": ""}
    assert history(content=None) == {"role": "assistant", "content": ""}
    assert history(content=None, tool_calls=[call("")])["tool_calls"] == [call({})]
    assert history(content="text") == {"role": "assistant", "content": "text"}

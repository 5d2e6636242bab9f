"""What LMDeploy is asked, member by member, and what it is not asked. Each fact was tried on its server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, Operation, RequestError
from backends.engines.lmdeploy.engine import LMDeploy
from tests.backends.recorded import request

ENGINE = LMDeploy()
CHAT, COMPLETIONS = Operation.CHAT, Operation.COMPLETIONS
RESPONSES, MESSAGES = Operation.RESPONSES, Operation.MESSAGES
USAGE = {"include_usage": True}


def asked(operation: Operation, **body: Any) -> dict[str, Any]:
    """Return the body of the engine's request, without what is in each of them."""
    found: dict[str, Any] = json.loads(ENGINE.call(request(operation, **body), "demo").body)
    assert found.pop("model") == "demo"
    return found


def refused(operation: Operation, **body: Any) -> tuple[Kind, str | None]:
    with pytest.raises(RequestError) as error:
        ENGINE.call(request(operation, **body), "demo")
    return error.value.failure.kind, error.value.failure.param


def test_everything_is_asked_for_as_a_stream() -> None:
    assert asked(CHAT, messages=[]) == {"messages": [], "stream": True, "stream_options": USAGE}
    assert asked(CHAT, messages=[], stream=True) == asked(CHAT, messages=[], stream=False)
    assert asked(COMPLETIONS, prompt="a")["stream"] and asked(RESPONSES, input="a")["stream"]
    assert asked(MESSAGES, messages=[], max_tokens=1) == {"messages": [], "max_tokens": 1, "stream": True}


def test_several_prompts_are_asked_for_whole() -> None:
    assert asked(COMPLETIONS, prompt=["a", "b"], stream=True) == {"prompt": ["a", "b"]}
    assert asked(COMPLETIONS, prompt=["a"], stream=True)["prompt"] == "a"


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_nulls_are_not_sent(operation: Operation) -> None:
    found = asked(operation, prompt="a", tool_choice=None, tools=None, n=None, stop=None, temperature=None)
    assert set(found) <= {"prompt", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ({"min_tokens": 3}, {"min_new_tokens": 3}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "max"}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"top_k": -1}, {}),
        ({"presence_penalty": 0}, {}),
        ({"seed": -1}, {"seed": (1 << 64) - 1}),
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": False}},
        ),
        (
            {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": True}},
            {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": True}},
        ),
        (
            {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"a": 1}},
            {
                "response_format": {"type": "json_object"},
                "chat_template_kwargs": {"a": 1, "enable_thinking": False},
            },
        ),
        ({"response_format": {"type": "text"}}, {"response_format": {"type": "text"}}),
    ],
)
def test_a_chat_in_its_own_words(sent: dict[str, Any], heard: dict[str, Any]) -> None:
    assert asked(CHAT, messages=[], **sent) == {
        "messages": [],
        "stream": True,
        "stream_options": USAGE,
        **heard,
    }


@pytest.mark.parametrize(
    ("operation", "sent"),
    [
        *((CHAT, {name: [1]}) for name in ("stop_token_ids", "guided_json")),
        (CHAT, {"presence_penalty": 0.1}),
        (CHAT, {"frequency_penalty": 0.1}),
        (COMPLETIONS, {"n": 2}),
        (COMPLETIONS, {"best_of": 2}),
        (COMPLETIONS, {"echo": True}),
        (COMPLETIONS, {"suffix": "a"}),
        (COMPLETIONS, {"logit_bias": {"1": 1}}),
        (COMPLETIONS, {"logprobs": 1}),
        (COMPLETIONS, {"response_format": {"type": "json_object"}}),
        (COMPLETIONS, {"prompt": [1]}),
        (RESPONSES, {"stop": "a"}),
    ],
)
def test_what_it_would_ignore_is_refused_by_name(operation: Operation, sent: dict[str, Any]) -> None:
    assert refused(operation, **{"prompt": "a", "messages": [], **sent}) == (
        Kind.UNSUPPORTED,
        next(iter(sent)),
    )


def test_no_prompt_is_the_clients_mistake() -> None:
    assert refused(COMPLETIONS, prompt=[]) == (Kind.REJECTED, "prompt")


def test_one_answer_may_be_asked_for() -> None:
    assert set(asked(COMPLETIONS, prompt="a", n=1, best_of=1)) == {"prompt", "stream", "stream_options"}


def test_messages_have_the_version_that_it_demands() -> None:
    asking = request(MESSAGES, messages=[], max_tokens=1)
    assert ENGINE.call(asking, "demo").headers == ((b"anthropic-version", b"2023-06-01"),)
    assert ENGINE.call(request(CHAT, messages=[]), "demo").headers == ()


def test_tools_of_a_message() -> None:
    tools = [{"name": "a"}, {"name": "b"}]
    body = {"messages": [], "max_tokens": 1, "tools": tools}
    assert "tools" not in asked(MESSAGES, **body, tool_choice={"type": "none"})
    named = asked(MESSAGES, **body, tool_choice={"type": "tool", "name": "b"})
    assert (named["tools"], named["tool_choice"]) == (tools[1:], {"type": "any"})
    alone = asked(MESSAGES, **body, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert alone["tool_choice"] == {"type": "auto"}


def test_the_gateway_cuts_messages_at_their_stop_sequences() -> None:
    assert "stop_sequences" not in asked(MESSAGES, messages=[], max_tokens=1, stop_sequences=["a"])


def test_a_call_without_arguments_in_the_items_of_a_response() -> None:
    items = [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}]
    assert asked(RESPONSES, input=items)["input"][0]["arguments"] == "{}"

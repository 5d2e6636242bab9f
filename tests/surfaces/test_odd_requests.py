"""Requests with an odd value at any one place: each is said, or refused with the place, and none is a crash."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from backends import registry
from backends.base import Kind, Operation, Request, RequestError
from tests.surfaces.chatting import translation

ODD: tuple[Any, ...] = (None, True, -1, 1.5, "", "x", [], {}, [None], [[]], [{}], {"type": "x"}, {"type": []})

MESSAGE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "metadata": {"user_id": "u"},
    "stop_sequences": ["a"],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tool_choice": {"type": "tool", "name": "get", "disable_parallel_tool_use": True},
    "tools": [
        {"name": "get", "description": "Gets.", "input_schema": {"type": "object"}, "strict": True},
        {"type": "bash_20250124", "name": "bash"},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "document", "title": "t", "source": {"type": "text", "data": "d"}},
                {"type": "search_result", "source": "s", "content": [{"type": "text", "text": "x"}]},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "get", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "is_error": True,
                    "content": [{"type": "text", "text": "r"}],
                }
            ],
        },
    ],
}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "instructions": "i",
    "max_output_tokens": 9,
    "reasoning": {"effort": "none", "summary": "auto"},
    "chat_template_kwargs": {"a": 1},
    "text": {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}},
        "verbosity": "low",
    },
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get"}]},
    "tools": [
        {"type": "function", "name": "get", "description": "Gets.", "parameters": {}, "strict": True},
        {
            "type": "custom",
            "name": "patch",
            "description": "Changes.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
        },
        {"type": "web_search"},
    ],
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "a", "file_data": "data:text/plain;base64,aGk="},
            ],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "content": []},
        {"type": "function_call", "call_id": "c", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "z"},
        {
            "type": "custom_tool_call_output",
            "call_id": "d",
            "output": [{"type": "input_text", "text": "q"}],
        },
    ],
}


def variants(body: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any, dict[str, Any]]]:
    """Yield the body with each odd value at each place, and without what is there."""
    for path in paths(body):
        for odd in (*ODD, ...):
            made = copy.deepcopy(body)
            holder: Any = made
            for key in path[:-1]:
                holder = holder[key]
            if odd is ...:
                del holder[path[-1]]
            else:
                holder[path[-1]] = odd
            yield path, odd, made


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if (*above, key) != ("model",):
            yield (*above, key)
            yield from paths(value[key], (*above, key))


@pytest.mark.parametrize(
    ("operation", "body"), [(Operation.MESSAGES, MESSAGE), (Operation.RESPONSES, RESPONSE)]
)
def test_an_odd_value_is_said_or_refused(operation: Operation, body: dict[str, Any]) -> None:
    translation(operation, body)
    refused: list[tuple[Any, ...]] = []
    placeless: list[tuple[Any, ...]] = []
    for path, odd, made in variants(body):
        try:
            translation(operation, made)
        except RequestError as error:
            (refused if error.failure.param else placeless).append((path, odd, error.failure.message))
        except Exception as error:
            raise AssertionError(f"{path} = {odd!r}: {error!r}") from error
    assert not placeless
    assert len(refused) > 100


@pytest.mark.parametrize(
    ("engine", "members", "message"),
    [
        ("ollama", {"temperature": {}}, "'temperature': expected a number, got an object"),
        ("ollama", {"messages": [None]}, "'messages[0]': expected an object, got null"),
        ("ollama", {"messages": [{"role": 1}]}, "'messages[0].role': expected text, got a whole number"),
        ("transformers", {"stop": [{}]}, "'stop[0]': expected text, got an object"),
        ("transformers", {"stop": True}, "'stop': expected text or a list, got true or false"),
        ("triton", {"top_p": []}, "'top_p': expected a number, got a list"),
        (
            "llama-cpp-python",
            {"tools": [{"function": 5}], "tool_choice": "required"},
            "'tools[0].function': expected an object, got a whole number",
        ),
    ],
)
def test_what_an_engines_adapter_cannot_read_has_its_place(
    engine: str, members: dict[str, Any], message: str
) -> None:
    """In the words of JSON, as what the gateway reads itself."""
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}]} | members)
    with pytest.raises(RequestError) as caught:
        registry.create(engine).call(Request(Operation.CHAT, body, "m"), "up")
    failure = caught.value.failure
    assert failure.kind is Kind.REJECTED and failure.message.startswith(message)
    assert failure.param == message[1 : message.index("':")]

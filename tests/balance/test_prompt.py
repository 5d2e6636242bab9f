"""The starts of prompts: what counts as the same, what does not, and how many there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Operation
from gateway.balance.prompt import LIMIT, Starts, starts
from tests.balance.candidates import asked, chat

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "a": 1}}}]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You are the very model."},
    {"role": "user", "content": 'Wörter: é\n"q"'},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "x" * 3000},
]
BODY: dict[str, Any] = {"model": "m", "messages": MESSAGES, "tools": TOOLS}


def numbers(body: Mapping[str, Any] | bytes, operation: Operation = Operation.CHAT) -> list[int]:
    return starts(asked(body, operation=operation)).numbers


def backwards(value: Any) -> Any:
    """Return the same JSON with the members of every object the other way round."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


SAME: dict[str, Mapping[str, Any] | bytes] = {
    "spaces and lines": json.dumps(BODY, indent=3).encode(),
    "no spaces": json.dumps(BODY, separators=(",", ":")).encode(),
    "escapes": json.dumps(BODY, ensure_ascii=True).encode(),
    "no escapes": json.dumps(BODY, ensure_ascii=False).encode(),
    "slashes": json.dumps(BODY).replace("model.", "model\\u002e").encode(),
    "order of members": backwards(BODY),
    "other members": {**BODY, "temperature": 1, "user": "u", "stream": True, "max_tokens": 3},
    "another model": {**BODY, "model": "other"},
    "a text as a part": {
        **BODY,
        "messages": [
            {**each, "content": [{"type": "text", "text": each["content"]}]} if each["content"] else each
            for each in MESSAGES
        ],
    },
    "a text in two parts, marked for a cache": {
        **BODY,
        "messages": [
            {
                "role": "system",
                "content": [
                    {"type": "text", "text": "You are"},
                    {"type": "text", "text": " the very model.", "cache_control": {"type": "ephemeral"}},
                ],
            },
            *MESSAGES[1:],
        ],
    },
    "members that are null": {**BODY, "messages": [{**each, "name": None} for each in MESSAGES]},
}


@pytest.mark.parametrize("form", SAME)
def test_what_does_not_count(form: str) -> None:
    assert numbers(SAME[form]) == numbers(BODY)


OTHER: dict[str, Mapping[str, Any]] = {
    "tools": {**BODY, "tools": [{"type": "function", "function": {"name": "g"}}]},
    "no tools": {"messages": MESSAGES},
    "system": {**BODY, "messages": [{"role": "system", "content": "Another"}, *MESSAGES[1:]]},
    "first message": {**BODY, "messages": [MESSAGES[0], {"role": "user", "content": "?"}, *MESSAGES[2:]]},
    "role": {**BODY, "messages": [MESSAGES[0], {**MESSAGES[1], "role": "assistant"}, *MESSAGES[2:]]},
}


@pytest.mark.parametrize("change", OTHER)
def test_a_change_changes_every_start_from_there(change: str) -> None:
    found, before = numbers(OTHER[change]), numbers(BODY)
    first = 1 if change in ("first message", "role") else 0
    assert found[:first] == before[:first]
    assert not set(found[first:]) & set(before[first:])


def test_a_later_change_keeps_the_starts_before_it() -> None:
    before = numbers(BODY)
    changed = numbers({**BODY, "messages": [*MESSAGES[:3], {**MESSAGES[3], "content": "x" * 2990 + "end"}]})
    common = [one for one, other in zip(before, changed, strict=False) if one == other]
    assert 2 <= len(common) < len(before)


def test_a_conversation_goes_on_from_all_its_starts() -> None:
    turns: list[str] = []
    before: list[int] = []
    for number in range(60):
        turns += [f"question {number} " * 30, f"answer {number} " * 80]
        found = starts(chat(*turns[:-1], system="S" * 500)).numbers
        assert found[: len(before)] == before
        before = found
    assert 10 <= len(before) <= 40, "a long conversation has few"


def test_what_an_application_shares_is_one_start() -> None:
    one, other = (starts(chat(text, system="S" * 9000, tools=TOOLS)) for text in ("a", "b"))
    assert one.shared and len(one.numbers) == 2
    assert one.numbers[0] == other.numbers[0] and one.numbers[1] != other.numbers[1]


def test_without_it_the_first_message_is_the_first_start() -> None:
    found = starts(chat("hello"))
    assert not found.shared and len(found.numbers) == 1


OTHER_APIS: list[tuple[Operation, Mapping[str, Any], int]] = [
    (Operation.COMPLETIONS, {"prompt": "p" * 3000}, 3),
    (Operation.COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
    (Operation.COMPLETIONS, {"prompt": ["a", "b"]}, 1),
    (Operation.COMPLETIONS, {"prompt": [[1, 2], [3]]}, 1),
    (Operation.RESPONSES, {"instructions": "i", "input": "hello"}, 2),
    (Operation.RESPONSES, {"instructions": "i", "input": [{"role": "user", "content": "hello"}]}, 2),
    (Operation.MESSAGES, {"system": [{"type": "text", "text": "s"}], "messages": MESSAGES[1:2]}, 2),
    (Operation.CHAT, {"messages": []}, 0),
    (Operation.CHAT, {"messages": 7}, 1),
    (Operation.CHAT, {}, 0),
    (Operation.EMBEDDINGS, {"input": "hello"}, 0),
    (Operation.TRANSCRIPTIONS, {}, 0),
]


@pytest.mark.parametrize(("operation", "body", "count"), OTHER_APIS)
def test_other_apis(operation: Operation, body: Mapping[str, Any], count: int) -> None:
    found = numbers(body, operation)
    assert len(found) == count == len(set(found))
    assert numbers(json.dumps(backwards(body), indent=1).encode(), operation) == found


def test_only_so_much_is_looked_at() -> None:
    long = [{"role": "user", "content": "w" * 1000} for _ in range(2 * LIMIT // 1000)]
    other = [*long[:-1], {"role": "user", "content": "another end"}]
    assert numbers({"messages": long}) == numbers({"messages": other})
    huge = [{"role": "user", "content": "h" * (4 * LIMIT)}]
    assert numbers({"messages": huge}) == numbers({"messages": [{**huge[0], "content": "h" * (5 * LIMIT)}]})
    assert 1 < len(numbers({"messages": huge})) < 30


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["messages", "system", "tools", "prompt", "input"]), JSON))
def test_any_body_has_starts_and_the_same_in_any_formatting(body: Mapping[str, Any]) -> None:
    assert numbers(body) == numbers(json.dumps(backwards(body), indent=2).encode())


@given(st.binary(max_size=60))
def test_any_bytes_have_starts(body: bytes) -> None:
    assert isinstance(starts(asked(body)), Starts)

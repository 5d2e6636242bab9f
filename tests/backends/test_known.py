"""Only members that an engine knows: what is left out, what is told, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Kind, RequestError
from backends.dialect import known, rewrite
from backends.dialect.edits import Members

KNOWN = frozenset(("model", "messages"))


def members(**body: Any) -> Members:
    return rewrite.members(json.dumps(body).encode())


def test_what_changes_nothing_in_an_answer_is_left_out_without_a_word() -> None:
    notes = {
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "user": "u",
    }
    usual = {
        "n": 1,
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "top_k": -1,
        "min_p": 0,
        "echo": False,
    }
    found = members(model="m", **notes, **usual)
    assert known.only(found, KNOWN) == ()
    assert found == {"model": b'"m"'}


def test_a_hint_is_left_out_and_told() -> None:
    found = members(model="m", reasoning_effort="low", verbosity="high", of_my_own=1)
    assert known.only(found, KNOWN) == ("reasoning_effort", "verbosity", "of_my_own")
    assert found == {"model": b'"m"'}


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 5), ("min_p", 0.1), ("parallel_tool_calls", False), ("guided_json", {"a": 1})],
)
def test_without_which_the_answer_would_be_another_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError) as error:
        known.only(members(**{"model": "m", name: value}), KNOWN)
    assert (error.value.failure.kind, error.value.failure.param) == (Kind.UNSUPPORTED, name)

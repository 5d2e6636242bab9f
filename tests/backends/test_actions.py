"""The arguments of actions: given, missing and wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Action
from backends.facts.actions import checked_arguments


def test_arguments_that_are_right() -> None:
    needed, optional = {"name": str}, {"level": int, "tags": list, "pinned": bool}
    given = {"name": "a", "level": 2, "tags": ["weights"], "pinned": False}
    assert checked_arguments(Action.SLEEP, given, needed, optional) == given
    assert checked_arguments(Action.SLEEP, {"name": "a", "level": None}, needed, optional) == {"name": "a"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "load_lora needs the argument 'name'"),
        ({"name": None}, "load_lora needs the argument 'name'"),
        ({"name": ""}, "load_lora: 'name' must be a text"),
        ({"name": 3}, "load_lora: 'name' must be a text"),
        ({"name": "a", "nme": "b"}, "load_lora has no argument 'nme': it takes name, level, tags"),
        ({"name": "a", "level": True}, "load_lora: 'level' must be a whole number"),
        ({"name": "a", "level": 1.5}, "load_lora: 'level' must be a whole number"),
        ({"name": "a", "tags": "weights"}, "load_lora: 'tags' must be a list of texts"),
        ({"name": "a", "tags": [1]}, "load_lora: 'tags' must be a list of texts"),
    ],
)
def test_arguments_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        checked_arguments(Action.LOAD_LORA, given, {"name": str}, {"level": int, "tags": list})
    assert str(error.value) == words


def test_an_action_without_arguments() -> None:
    assert checked_arguments(Action.WAKE, {}, {}) == {}
    with pytest.raises(ValueError, match="wake has no argument 'level': it takes none"):
        checked_arguments(Action.WAKE, {"level": 1}, {})

"""Check the arguments of actions on models.

Rules:
- Messages for the operator name the argument and what it must be; they never repeat a value.
- An argument that is None counts as not given: the engine's own default applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import Action

Kinds = Mapping[str, type]

_WORDS: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    list: "a list of texts",
}


def checked_arguments(
    action: Action, given: Mapping[str, Any], needed: Kinds, optional: Kinds | None = None
) -> dict[str, Any]:
    """Return the arguments of an action that are given.

    Raise ValueError, with a message for the operator, where one is missing, unknown or of the wrong type.
    """
    kinds = {**needed, **(optional or {})}
    there = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(there.keys() - kinds.keys())
    if unknown:
        known = f"it takes {', '.join(kinds)}" if kinds else "it takes none"
        raise ValueError(f"{action} has no argument {unknown[0]!r}: {known}")
    for name, kind in kinds.items():
        if name not in there:
            if name in needed:
                raise ValueError(f"{action} needs the argument {name!r}")
        elif not _is(there[name], kind):
            raise ValueError(f"{action}: {name!r} must be {_WORDS[kind]}")
    return there


def _is(value: Any, kind: type) -> bool:
    """Return whether an argument has its type; texts must not be empty."""
    if kind is list:
        return isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)
    return type(value) is kind and value != ""

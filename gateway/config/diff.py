"""What differs between two configs, in words for the person who changes one, and what that means for what runs.

Rules:
- Pure. The same words are used by `gateway diff`, by the log after a reload and by the answer to one.
- No secret and nothing that may hold one is shown: of backends, keys and rules only which settings differ.
- One line for each backend, model, key and setting that differs. Where nothing differs, there is none.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from backends.facts.units import Duration, Share, Size, Wait
from gateway.config.backend import BackendConfig, Consequence, consequence
from gateway.config.problems import quote
from gateway.config.schema import Config
from gateway.config.section import Section

MOST = 20
"""The most differences that are told of one thing."""
_SHOWN = frozenset({"server", "defaults", "models", "profiles"})
"""Sections whose values may be shown."""
_MEANING = {
    Consequence.KEPT: "",
    Consequence.MOVED: "new requests go to the new place, those under way finish at the old one",
    Consequence.RELAUNCHED: "its engine ends when requests under way have finished, and is started anew; others wait",
    Consequence.REPLACED: "it is replaced: requests under way finish first",
}


def changes(old: Config, new: Config) -> list[str]:
    """Return a line for everything that differs, in the order of the config's sections."""
    lines: list[str] = []
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name == "include" or before == after:
            continue
        word = name.removesuffix("s")
        if isinstance(after, Mapping):
            lines += _entries(word, before, after, name in _SHOWN)
        elif isinstance(after, tuple):
            lines += _rules(word, before, after)
        else:
            lines += (f"{name}.{words}" for words in _leaves(before, after, name in _SHOWN, ": "))
    return lines


def _entries(word: str, old: Mapping[str, Any], new: Mapping[str, Any], shown: bool) -> Iterator[str]:
    """Yield what differs between two maps of things that have names."""
    yield from (f"{word} {quote(name)} is removed" for name in old if name not in new)
    for name, after in new.items():
        before = old.get(name)
        if before is None:
            engine = f" ({after.engine})" if isinstance(after, BackendConfig) else ""
            yield f"{word} {quote(name)} is added{engine}"
        elif before != after:
            meaning = _MEANING[consequence(before, after)] if isinstance(after, BackendConfig) else ""
            yield f"{word} {quote(name)} changes: {_some([*_leaves(before, after, shown, ' ')], ', ')}" + (
                f"; {meaning}" if meaning else ""
            )


def _rules(word: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[str]:
    """Yield what differs between two lists of rules. One that has no name is called by its position."""
    before, after = _by_name(old), _by_name(new)
    yield from _entries(word, before, after, shown=False)
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        yield f"the order of the {word}s changes"


def _by_name(rules: tuple[Any, ...]) -> dict[str, Any]:
    return {str(getattr(rule, "name", None) or f"#{number}"): rule for number, rule in enumerate(rules, 1)}


def _leaves(old: BaseModel, new: BaseModel, shown: bool, colon: str) -> Iterator[str]:
    """Yield each setting that differs, with both values where they are `shown`."""
    kinds = _kinds(type(new))
    for name, field in type(new).model_fields.items():
        word, before, after = field.alias or name, getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(after, BaseModel) and type(before) is type(after):
            words = [*_leaves(before, after, shown, colon)] or [f"files{colon}their content"]
            yield from (f"{word}.{each}" for each in words)
        elif not shown:
            yield word
        elif isinstance(after, Mapping) and isinstance(before, Mapping):
            yield from _members(word, before, after, colon)
        elif isinstance(after, tuple) and isinstance(before, tuple):
            yield f"{word}{colon}{_items(before, after)}"
        else:
            yield f"{word}{colon}{_shown(before, kinds[name])} -> {_shown(after, kinds[name])}"


def _members(name: str, old: Mapping[str, Any], new: Mapping[str, Any], colon: str) -> Iterator[str]:
    """Yield what differs between two maps within a thing, such as the targets of a model."""
    moved = [*(f"+{key}" for key in new if key not in old), *(f"-{key}" for key in old if key not in new)]
    if moved:
        yield f"{name}{colon}{_some(moved, ' ')}"
    for key, after in new.items():
        before = old.get(key, after)
        if isinstance(after, BaseModel) and type(before) is type(after):
            yield from (f"{name}.{key}.{words}" for words in _leaves(before, after, True, colon))
        elif before != after:
            yield f"{name}.{key}{colon}{_shown(before, None)} -> {_shown(after, None)}"
    if not moved and list(old) != list(new):
        yield f"{name}{colon}another order"


def _items(old: tuple[Any, ...], new: tuple[Any, ...]) -> str:
    """Say what differs between two lists. An item that has a name is called by it."""
    before = {_called(item): item for item in old}
    after = {_called(item): item for item in new}
    moved = [
        *(f"+{item}" for item in after if item not in before),
        *(f"-{item}" for item in before if item not in after),
    ]
    moved += (f"{item} (changed)" for item in after if item in before and before[item] != after[item])
    return _some(moved, " ") or "another order"


def _called(item: Any) -> str:
    return str(item.name) if isinstance(item, BaseModel) and hasattr(item, "name") else _shown(item, None)


def _some(words: list[str], between: str) -> str:
    return between.join(words[:MOST]) + (f" and {len(words) - MOST} more" if len(words) > MOST else "")


@functools.cache
def _kinds(section: type[BaseModel]) -> dict[str, Any]:
    """Return the types of a section's settings, with what annotates them, without `| None`."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: _given(hint) for name, hint in hints.items()}


def _given(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint


def _shown(value: Any, kind: Any) -> str:
    """Return a value as the file would have it, shortened."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Section):
        kinds = _kinds(type(value))
        given = [f"{name}: {_shown(getattr(value, name), kinds[name])}" for name in value.model_fields_set]
        return f"{{{_some(sorted(given), ', ')}}}"
    if isinstance(value, BaseModel | SecretStr | Mapping):
        return "…"
    if kind in (Duration, Wait):
        return f"{value / 60:g}m" if value >= 60 and value % 60 == 0 else f"{value:g}s"
    if kind == Share:
        return f"{value * 100:g}%"
    if kind == Size:
        return _size(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(item, None) for item in value)}]"
    text = str(value)
    return text if len(text) <= 80 and text.isprintable() and " " not in text else quote(text)


def _size(value: int) -> str:
    for unit, count in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value % count == 0:
            return f"{value // count}{unit}"
    return f"{value}B"

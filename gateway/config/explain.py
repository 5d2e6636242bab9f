"""Validation errors of pydantic as problems of the file, in plain words and at the right place.

Rules:
- Pydantic's own words, types and links are never shown.
- A problem shows what the file has written, never what a substitution filled in, and nothing at all where a secret
  may stand.
- An unknown key is compared with the keys that are valid at that very place. The key that it was probably meant to be
  is not told as missing besides.
"""

from __future__ import annotations

import re
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.backend import BackendConfig, engine_section
from gateway.config.problems import Problem, closest, quote
from gateway.config.schema import Config
from gateway.config.section import spelled
from gateway.config.yaml_source import Node, Source, Where, resolve

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "dict_type": "a map",
    "mapping_type": "a map",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "path_type": "a path",
}
_BOUNDS = {
    "greater_than_equal": "a number of at least {ge}",
    "greater_than": "a number greater than {gt}",
    "less_than_equal": "a number of at most {le}",
    "less_than": "a number less than {lt}",
    "string_too_long": "at most {max_length} characters",
    "too_long": "at most {max_length} entries",
}
_AS_NUMBER = {"int_type", "int_parsing", "bool_type", "bool_parsing", "float_type", "float_parsing"}
_PRIVATE = {"env", "extra_args", "url"}
"""Fields that are no secrets by type and may still hold one."""


_PLAIN = ("models", "tags", "priority", "weight")
"""Fields of a key in which no secret stands."""
_MOST_UNKNOWN = 100
"""Unknown keys of one map that are told one by one."""


class Names:
    """Suggestions of names, within a bound on the work so that a file of nothing but errors stays fast."""

    def __init__(self, comparisons: int = 50_000) -> None:
        self._left = comparisons

    def closest(self, word: str, known: Collection[str]) -> str | None:
        """Return the nearest name; None where none is near, or where there was too much to compare already."""
        if self._left <= 0:
            return None
        self._left -= len(known)
        return closest(word, known)

    def suggest(self, word: str, names: Iterable[str]) -> str:
        """Return the end of a message: the nearest name, else the few names there are, else nothing."""
        if self._left <= 0:
            return ""
        known = sorted(names)
        if near := self.closest(word, known):
            return f" (did you mean {quote(near)}?)"
        return f" (there are: {', '.join(known)})" if 0 < len(known) <= 20 else ""


def read_late(source: Source, error: ValidationError, data: dict[str, Any]) -> bool:
    """Read unquoted substituted text as a number or boolean where one is wanted. Return whether `data` changed."""
    changed = False
    for detail in error.errors(include_url=False, include_input=False):
        node = source.find(detail["loc"])
        if not node or detail["type"] not in _AS_NUMBER or not node.substituted or node.quoted:
            continue
        value = resolve(str(node.content))
        if value is not None and not isinstance(value, str):
            parent = data
            for step in detail["loc"][:-1]:
                parent = parent[step]  # type: ignore[index]
            parent[detail["loc"][-1]] = value  # type: ignore[index]
            changed = True
    return changed


def problems(source: Source, error: ValidationError, names: Names) -> Iterator[Problem]:
    """Yield every error of a validation as a problem of the file, but for consequences of problems known already."""
    details = error.errors(include_url=False, include_input=False)
    unknown = Counter(detail["loc"][:-1] for detail in details if detail["type"] == "extra_forbidden")
    told: Counter[Where] = Counter()
    for detail in details:
        where, at_key = detail["loc"], False
        if where and where[-1] == "[key]":
            where, at_key = where[:-1], True
        if not at_key and _follows(source, where, detail["type"]):
            continue
        word = str(where[-1])
        if detail["type"] == "missing":
            if misspelt(source, where[:-1], names, word):
                continue
            yield source.problem(where[:-1], f"{quote(word)} is missing", at_key=True)
        elif detail["type"] == "extra_forbidden":
            holder = where[:-1]
            told[holder] += 1
            if told[holder] > _MOST_UNKNOWN:
                continue
            hint = _below(source, holder, word) or names.suggest(word, _keys_at(source, holder))
            if told[holder] == _MOST_UNKNOWN < unknown[holder]:
                hint += f", and {unknown[holder] - _MOST_UNKNOWN} more in the same map"
            yield source.problem(where, f"unknown key {quote(word)}{hint}", at_key=True)
        elif at_key:
            expected = detail.get("ctx", {}).get("what", "another name")
            yield source.problem(where, f"expected {expected}, got {quote(word)}", at_key=True)
        else:
            yield source.problem(where, _wrong_value(source, where, detail, names))


def misspelt(source: Source, where: Where, names: Names, *keys: str) -> bool:
    """Tell whether the map at `where` has an unknown key that was probably meant to be one of these."""
    node = source.find(where)
    if node is None or not isinstance(node.content, dict):
        return False
    known = sorted(_keys_at(source, where))
    unknown = [word for word in node.content if word not in known][:_MOST_UNKNOWN]
    return any(names.closest(word, known) in keys for word in unknown if not _below(source, where, word))


def _follows(source: Source, where: Where, kind: str) -> bool:
    """Tell whether an error is only the consequence of something that is reported already."""
    if kind == "missing":
        holder = source.nearest(where[:-1])
        return holder is not None and holder.broken
    node = source.nearest(where)
    if node is None:
        return False
    return node.broken or node.empty or (kind == "too_short" and bool(node.content))


def _wrong_value(source: Source, where: Where, detail: ErrorDetails, names: Names) -> str:
    """Return what a value should be and is not; a table of pydantic's kinds of errors."""
    kind, context, node = detail["type"], detail.get("ctx", {}), source.nearest(where)
    secret = _secret(source, where)
    got = _shown(node, secret)
    literal = node is not None and not node.substituted
    if kind == "expected":
        end = "" if secret and node and isinstance(node.content, str) else f", got {got}"
        hint = f" ({context['hint']})" if context["hint"] and literal else ""
        return f"expected {context['what']}{end}{hint}"
    if kind == "unknown":
        word = node.written if node and literal else ""
        return f"unknown {detail['msg']} {got}{names.suggest(word, context['names'])}"
    if kind in ("literal_error", "enum"):
        wanted = str(context.get("expected")).replace("'", "")
        choices = re.split(", | or ", wanted)
        near = closest(node.written, choices) if node and isinstance(node.content, str) else None
        return f"expected {wanted}, got {got}" + (f" (did you mean {quote(near)}?)" if near else "")
    if kind == "string_type" and node and type(node.content) in (int, float, bool) and not secret:
        return f'expected text, got {got} (write "{node.written}")'
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {got}"
    if kind in ("too_short", "string_too_short") and context.get("min_length") == 1:
        return "must not be empty"
    if kind in _BOUNDS:
        return f"expected {_BOUNDS[kind].format(**context)}, got {got}"
    if kind == "string_pattern_mismatch":
        return f"expected text of the form {context['pattern']}, got {got}"
    if kind == "value_error":
        return str(context["error"])
    return re.sub(r"^.*? should (be|have) ", "expected ", detail["msg"])


def _shown(node: Node | None, secret: bool) -> str:
    """Return a value as a problem names it."""
    if node is None or node.content is None:
        return "nothing"
    if isinstance(node.content, dict):
        return "a map"
    if isinstance(node.content, list):
        return "a list"
    is_text = isinstance(node.content, str)
    if secret:
        return "text" if is_text else "true or false" if isinstance(node.content, bool) else "a number"
    return quote(node.written) if is_text else node.written


def _secret(source: Source, where: Where) -> bool:
    """Tell whether a secret may stand at this place."""
    if where[:1] == ("keys",) and (len(where) < 3 or where[2] not in _PLAIN):
        return True
    return not _PRIVATE.isdisjoint(map(str, where)) or _bare(_kind_at(source, where)) is SecretStr


def _kind_at(source: Source, where: Where) -> Any:
    """Return the type that the config gives the value at this place; None where it gives none."""
    kind: Any = Config
    for depth, step in enumerate(where):
        kind = _member(kind, step, source.find(where[:depth]))
    return kind


def _keys_at(source: Source, where: Where) -> Iterable[str]:
    """Return the keys that the map at `where` may have."""
    found = _section(_kind_at(source, where))
    return spelled(found) if found else ()


def _below(source: Source, where: Where, word: str) -> str:
    """Return the end of a message that says below which keys of the map at `where` a key may stand; usually nothing."""
    found = _section(_kind_at(source, where))
    inner = {name: _section(field.annotation) for name, field in found.model_fields.items()} if found else {}
    holders = [name for name, section in inner.items() if section and word in section.model_fields]
    return f" (it stands below {' or '.join(map(quote, holders))})" if holders else ""


def _member(kind: Any, step: str | int, holder: Node | None) -> Any:
    section = _section(kind)
    if section is BackendConfig and step in ("options", "launch"):
        engine = holder.child("engine") if holder else None
        return engine_section(str(engine.content), str(step)) if engine else None
    if section is not None:
        known = spelled(section).get(str(step))
        return known.annotation if known else None
    inner = typing.get_args(_bare(kind))
    return inner[-1] if typing.get_origin(_bare(kind)) in (dict, Mapping) else inner[0] if inner else None


def _section(kind: Any) -> type[BaseModel] | None:
    kind = _bare(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _bare(kind: Any) -> Any:
    """Return a type without its annotations and without `| None`."""
    if typing.get_origin(kind) is typing.Annotated:
        return _bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _bare(next(part for part in typing.get_args(kind) if part is not types.NoneType))
    return kind

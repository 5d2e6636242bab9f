"""Google's schemas as JSON schemas.

Rules:
- A type is written in capitals there (`OBJECT`), and what may be null says so by `nullable`.
- What only orders or shows a schema is left out, as is a format that JSON schemas do not know: engines that hold an
  answer to a schema refuse what they do not know.
"""

from __future__ import annotations

from typing import Any, Final

from backends.surfaces.gemini.fields import fields
from backends.surfaces.places import Members, wrong

_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_NONE: Final = "type_unspecified"
_LEFT_OUT: Final = ("propertyOrdering", "example", "nullable")
_NUMBERS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
"""Whole numbers of 64 bits, which this kind of JSON may write as texts."""
_FORMATS: Final = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
_NAMES: Final = {"ref": "$ref", "defs": "$defs"}
_DEEPEST: Final = 64
"""Levels of a schema; deeper ones no engine makes a grammar of."""


def json_schema(schema: Members, place: str, depth: int = 0) -> Members:
    """Return a schema of Google's as a JSON schema. Raise InvalidRequest where it is none."""
    if depth > _DEEPEST:
        raise wrong(place, "the schema is nested too deeply")
    made: Members = {}
    given = fields(schema)
    for name, value in given.items():
        if value is None or name in _LEFT_OUT:
            continue
        at = f"{place}.{name}"
        if name == "type":
            made |= _type(value, at)
        elif name == "format":
            made |= {name: value} if isinstance(value, str) and value in _FORMATS else {}
        elif name in _NUMBERS and isinstance(value, str) and value.isascii() and value.isdigit():
            made[name] = int(value[:9])
        else:
            made[_NAMES.get(name, name)] = _inner(name, value, at, depth)
    return _nullable(made) if given.get("nullable") is True else made


def _inner(name: str, value: Any, place: str, depth: int) -> Any:
    """Return the value of a member, of which the schemas in it are converted."""
    if name in ("properties", "defs", "$defs"):
        if not isinstance(value, dict):
            raise wrong(place, "expected an object")
        return {key: _schema(one, f"{place}.{key}", depth) for key, one in value.items()}
    if name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if not isinstance(value, list):
            raise wrong(place, "expected a list")
        return [_schema(one, f"{place}.{number}", depth) for number, one in enumerate(value)]
    if name == "items" or (name == "additionalProperties" and isinstance(value, dict)):
        return _schema(value, place, depth)
    return value


def _schema(value: Any, place: str, depth: int) -> Members:
    if not isinstance(value, dict):
        raise wrong(place, "expected a schema")
    return json_schema(value, place, depth + 1)


def _type(value: Any, place: str) -> Members:
    said = [value] if isinstance(value, str) else value
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        raise wrong(place, "expected a type, such as OBJECT")
    types = [one.lower() for one in said if one.lower() != _NONE]
    if not _TYPES.issuperset(types):
        raise wrong(place, "expected a type, such as OBJECT")
    if not types:
        return {}
    return {"type": types[0] if isinstance(value, str) else types}


def _nullable(made: Members) -> Members:
    """Return a schema that allows null, too."""
    if isinstance(made.get("enum"), list):
        made["enum"] = [*made["enum"], None]
    kind = made.get("type")
    if isinstance(kind, str):
        return made | {"type": [kind, "null"]}
    if isinstance(made.get("anyOf"), list):
        return made | {"anyOf": [*made["anyOf"], {"type": "null"}]}
    return made

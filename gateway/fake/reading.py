"""A script from YAML or JSON text: every mistake in plain words, with line and column.

Rules:
- Nothing but `ScriptError` leaves this module, and it names every mistake found, not only the first.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.config.problems import ConfigError, Problem
from gateway.config.yaml_source import Node, parse
from gateway.fake.script import Script

_WORDS = {
    "missing": "'{field}' is missing",
    "model_type": "expected a map",
    "dict_type": "expected a map",
    "tuple_type": "expected a list",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "greater_than": "expected a number greater than {gt}",
    "greater_than_equal": "expected a number of at least {ge}",
    "less_than_equal": "expected a number of at most {le}",
    "literal_error": "expected one of: {expected}",
}


class ScriptError(ValueError):
    """The text is no script. One line for each mistake: `name:line:column: what is wrong`."""


def load(path: Path) -> Script:
    """Return the script in a file. Raises ScriptError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ScriptError(f"{path}:1:1: cannot read the file: {why}") from None
    return read(text, str(path))


def read(text: str, name: str = "script") -> Script:
    """Return the script in a text; `name` stands before each mistake. Raises ScriptError."""
    try:
        source = parse(_joined(text).encode("utf-8", "surrogatepass"), name, "a script")
    except ConfigError as error:
        raise ScriptError(str(error)) from None
    plain = source.root.plain()
    mistakes = list(source.problems)
    script = None
    try:
        script = Script.model_validate_json(json.dumps({} if plain is None else plain), strict=True)
    except ValidationError as error:
        mistakes += (Problem(name, *_place(source.root, at["loc"]), _words(at)) for at in error.errors())
    except (ValueError, TypeError, RecursionError) as error:
        raise ScriptError(f"{name}:1:1: {error}") from None
    if script is None or mistakes:
        raise ScriptError(str(ConfigError(mistakes)))
    return script


_PAIR = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


def _joined(text: str) -> str:
    """Return JSON with each character that is written as two escapes, as JSON does and YAML cannot, as itself."""
    if not text.lstrip().startswith("{"):
        return text
    return _PAIR.sub(lambda pair: json.loads(f'"{pair[0]}"'), text)


def _place(root: Node, where: tuple[int | str, ...]) -> tuple[int, int]:
    """Return line and column of the deepest part of `where` that the text has; of the key, for a map's entry."""
    node, place = root, root.place
    for step in where:
        below = node.child(step)
        if below is None:
            break
        place = node.keys.get(str(step), below.place)
        node = below
    return place.line, place.column


def _words(mistake: Any) -> str:
    kind, context = mistake["type"], dict(mistake.get("ctx", {}))
    field = str(mistake["loc"][-1]) if mistake["loc"] else "script"
    if kind == "extra_forbidden":
        return _unknown(field, mistake["loc"])
    if kind in ("expected", "wrong"):
        hint = context.get("hint")
        said = context.get("message") or f"expected {context.get('what')}"
        return f"{said}: {hint}" if hint else str(said)
    return _WORDS.get(kind, str(mistake["msg"])).format(field=field, **context)


def _unknown(field: str, where: tuple[int | str, ...]) -> str:
    names = _names(where[:-1])
    near = difflib.get_close_matches(field, names, n=1)
    return f"unknown key '{field}'" + (
        f": did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"
    )


def _names(where: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a map of a script may have."""
    model: type[BaseModel] = Script
    for step in where:
        if isinstance(step, str) and step in model.model_fields:
            model = _settings(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _settings(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_settings(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in found if model), None)

"""Read a script from YAML or JSON text, and report every mistake in plain words with line and column.

Rules:
- Nothing but `ScriptError` leaves this module, and it names every mistake found, not only the first.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

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
    """The text is no script. The message has one line per mistake: `name:line:column: what is wrong`."""


def load(path: Path) -> Script:
    """Read the script in a file. Raises ScriptError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}:1:1: cannot read the file: {error}") from None
    return read(text, str(path))


def read(text: str, name: str = "script") -> Script:
    """Read the script in a text; `name` stands before each mistake. Raises ScriptError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise ScriptError(f"{name}:{place}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise ScriptError(f"{name}:1:1: {str(error).splitlines()[0]}") from None
    try:
        document = json.dumps({} if plain is None else plain, default=str)
        return Script.model_validate_json(document, strict=True)
    except ValidationError as error:
        mistakes = sorted({(_place(root, mistake["loc"]), _words(mistake)) for mistake in error.errors()})
        lines = [f"{name}:{line}:{column}: {words}" for (line, column), words in mistakes]
        raise ScriptError("\n".join(lines)) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ScriptError(f"{name}:1:1: {error}") from None


def _place(root: yaml.Node | None, where: tuple[int | str, ...]) -> tuple[int, int]:
    """Return line and column of the deepest part of `where` that the text has; for a map's entry, of its key."""
    node, mark = root, root.start_mark if root else None
    for step in where:
        below = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    below, mark = value, key.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            below = node.value[step]
            mark = below.start_mark
        if below is None:
            break
        node = below
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


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
    """Return the keys that a map at this place of a script may have."""
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

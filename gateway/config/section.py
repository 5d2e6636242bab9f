"""What every section of the config file is made of.

Rules:
- A section is a frozen type; its fields have a default and a meaning, from which schema, reference and hints are made.
- Nothing here knows a section by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.fields import FieldInfo


def setting(default: Any, description: str, **constraints: Any) -> Any:
    """Return a field: its default as the file would spell it (`...` where it is required) and what it means."""
    return Field(default, description=description, **constraints)


class Section(BaseModel):
    """A map in the file: unknown keys are errors, text is never taken for a number, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


def spelled(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the names that they have in the file."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


K = TypeVar("K")
V = TypeVar("V")
Frozen = Annotated[
    Mapping[K, V], AfterValidator(lambda found: MappingProxyType(dict(found))), PlainSerializer(dict)
]
"""A map that cannot be changed."""


T = TypeVar("T", bound=BaseModel)


def validate(kind: type[T], value: object) -> T:
    """Read a plain value as `kind`, strictly and without unknown keys. Raises pydantic's ValidationError.

    The value goes in as JSON, because there even strict types accept a list for a tuple and text for a path.
    """
    return kind.model_validate_json(json.dumps(value), strict=True, extra="forbid")

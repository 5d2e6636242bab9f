"""The setting `native` of a backend: how far its engine is asked in APIs that it speaks itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from backends.facts.units import expected
from backends.facts.versions import parsed
from gateway.config.section import Section, setting


def _version(value: str) -> str:
    if parsed(value) is None:
        raise expected("a version in quotes, such as '0.11.0'")
    return value


class Native(Section):
    """How far an engine is asked in one API of its own."""

    use: bool = setting(
        True,
        "Whether the engine is asked in it at all. `messages: false` is short for `messages: {use: false}`.",
    )
    tools: bool = setting(
        True,
        "Whether requests that offer tools pass too. `false`: these are translated, and all others pass.",
    )
    since: Annotated[str, AfterValidator(_version)] | None = setting(
        None,
        "The first version of the engine that is asked in it, such as `'0.11.0'`. An older one, and one that has not "
        "told its version yet, gets translations.",
    )


def _short(value: object) -> object:
    """Return the section for true or false alone; any other value as it is."""
    return {"use": value} if isinstance(value, bool) else value


NativeOrUse = Annotated[Native, BeforeValidator(_short, json_schema_input_type=bool | Native)]

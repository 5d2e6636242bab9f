"""The section of one backend, with the options and launch options of its engine's own type."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from backends import registry
from backends.base import EngineOptions, LaunchOptions, Operation, Options
from backends.facts.residing import starts_alike
from backends.facts.versions import parsed
from backends.surfaces.limits import Limit
from gateway.config.address import Url
from gateway.config.defaults import TimeoutOverrides
from gateway.config.native import Native, NativeOrUse
from gateway.config.section import Frozen, Section, setting, validate
from gateway.config.texts import HeaderName, HeaderValue, Line, ModelGlob, Secret

Translatable = Literal["messages", "count_tokens", "responses"]
"""The operations in `backends.surfaces.codecs.CODECS`."""


class BackendConfig(Section):
    """One running engine: attached to by `url`, or started by the gateway with `launch`."""

    engine: str = setting(..., "The kind of engine.")
    url: Url | None = setting(
        None,
        "Where the engine answers: http or https, with an optional path. A `/v1` at the end is dropped; "
        "another version there (`/v3`, `/v1beta/openai`) is used instead of `/v1`. "
        "Exactly one of `url` and `launch`.",
    )
    api_key: Secret | None = setting(
        None, "Sent to the engine as a bearer token. Best written as `${env.NAME}` or `${file:/path}`."
    )
    headers: Frozen[HeaderName, HeaderValue] = setting(
        {},
        "Headers sent with every request to the engine, such as `OpenAI-Organization`. Values may be secrets.",
    )
    models: tuple[Line, ...] | None = setting(
        None, "The names the engine serves. Left out, the engine is asked.", min_length=1
    )
    include: tuple[ModelGlob, ...] | None = setting(
        None,
        "Which of the models it lists are offered: names, in which `*` stands for any text and `?` for any one "
        "character. Left out, all.",
        min_length=1,
    )
    exclude: tuple[ModelGlob, ...] = setting(
        (), "Models that it lists and that are not offered. They win over `include`."
    )
    native: Frozen[Translatable, NativeOrUse] = setting(
        {},
        "How far the engine is asked in APIs that it speaks itself: `messages: false` has all its requests translated, "
        "`messages: {tools: false}` those with tools; for versions that speak it badly.",
    )
    metrics_url: Url | None = setting(
        None,
        "Where the engine publishes its metrics, if not where it answers. Without the path, which is the engine's.",
    )
    labels: Frozen[Line, str] = setting({}, "Free text about this backend, such as `gpu: h200`.")
    timeouts: TimeoutOverrides = setting({}, "Timeouts of requests to this backend, where they differ.")
    options: Annotated[EngineOptions | None, WithJsonSchema({"type": "object"})] = setting(
        None, "How to speak to the engine; which options there are depends on it.", repr=False, exclude=True
    )
    launch: Annotated[LaunchOptions | None, WithJsonSchema({"type": "object"})] = setting(
        None,
        "How the gateway starts the engine; the options depend on the engine. Exactly one of `url` and `launch`.",
        repr=False,
        exclude=True,
    )

    @property
    def limits(self) -> dict[Operation, Limit]:
        """Return how far the engine is asked for operations as they are."""
        return {
            Operation(name): Limit(one.use, one.tools, None if one.since is None else parsed(one.since))
            for name, one in self.native.items()
        }

    @field_validator("native")
    @classmethod
    def _tells_its_version(cls, value: Mapping[str, Native], info: ValidationInfo) -> Mapping[str, Native]:
        name = info.data.get("engine")
        depends = any(one.since is not None for one in value.values())
        if name is not None and depends and not registry.engine(name).version_path:
            raise ValueError(f"engine '{name}' does not tell its version: leave 'since' out")
        return value

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in registry.names():
            raise PydanticCustomError("unknown", "engine", {"names": registry.names()})
        return value

    @field_validator("options", "launch", mode="plain")
    @classmethod
    def _of_the_engine(cls, value: object, info: ValidationInfo) -> Options | None:
        """Read a section as the engine's own type. An engine that is itself wrong is reported elsewhere."""
        if value is None or isinstance(value, Options) or "engine" not in info.data:
            return value if isinstance(value, Options) else None
        name, section = info.data["engine"], str(info.field_name)
        kind = engine_section(name, section)
        if kind is None and section == "launch":
            raise ValueError(f"engine '{name}' cannot be launched: start it yourself and give its url")
        if kind is None:
            raise ValueError(f"engine '{name}' has no options")
        return validate(kind, value)


def engine_section(engine: str, section: str) -> type[Options] | None:
    """Return the type of `options` or `launch` for an engine; None where the engine has no such section."""
    kind = registry.engine(engine)
    return kind.launch_options if section == "launch" else kind.options_type


class Consequence(enum.Enum):
    """What becomes of a running backend when its settings change."""

    KEPT = enum.auto()
    """Its engine, its connections and what is known of it stay."""
    MOVED = enum.auto()
    """Its engine is elsewhere: there are new connections."""
    RELAUNCHED = enum.auto()
    """The gateway has to start its engine anew."""
    REPLACED = enum.auto()
    """It becomes another one, of which nothing is known."""


def consequence(before: BackendConfig, after: BackendConfig) -> Consequence:
    """Return what a change of a backend's settings means for what runs."""
    if before.engine != after.engine or (before.url is None) != (after.url is None):
        return Consequence.REPLACED
    if after.url is not None:
        return Consequence.MOVED if after.url != before.url else Consequence.KEPT
    same = (before.options, before.api_key) == (after.options, after.api_key)
    same = same and starts_alike(before.launch, after.launch)
    return Consequence.KEPT if same else Consequence.RELAUNCHED

"""The shape of the config file: one frozen type per section, each field with its default and its meaning.

Rules:
- Names and defaults here are a promise to users. The JSON Schema, the reference in the docs and every "did you mean"
  come from these types, so a field is described once.
- Validation here sees one value at a time. Rules between values (names that must exist, cycles) live in
  `gateway.config.check`.
- Nothing here reads a file or the environment. Secrets are `SecretStr` and never part of an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from backends import registry
from backends.base import EngineOptions, LaunchOptions, Options
from backends.facts.units import Duration, Share, Size, Wait, expected
from gateway.config.address import ListenAddress, Url
from gateway.config.texts import (
    Hash,
    HeaderName,
    HeaderValue,
    Line,
    ModelGlob,
    ModelName,
    Name,
    Origin,
    Secret,
)


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


K = TypeVar("K")
V = TypeVar("V")
Frozen = Annotated[
    Mapping[K, V], AfterValidator(lambda found: MappingProxyType(dict(found))), PlainSerializer(dict)
]
"""A map that cannot be changed."""


class Limits(Section):
    """How much one client may send, and one engine answer."""

    body: Size = setting(
        "10MiB",
        "The largest request body, decoded if it comes compressed. A larger one is answered with 413.",
    )
    values: int = setting(
        500_000,
        "How many values a JSON body may have: items of lists and members of objects. More are answered with 413. "
        "A prompt given as tokens has one for each.",
        ge=1000,
        le=100_000_000,
    )
    headers: Size = setting("32KiB", "The largest request head: request line and headers together.")
    header_count: int = setting(100, "How many headers one request may have.", ge=1, le=100_000)
    reply: Size = setting(
        "256MiB",
        "The largest answer of an engine, streamed or whole. A larger one is answered with 502 `answer_too_large`.",
    )
    event: Size = setting(
        "32MiB",
        "The largest event of a streamed answer: images, for instance. The same applies to a larger one.",
    )
    connections: int = setting(10000, "How many client connections may be open at once.", ge=1, le=10_000_000)


class ClientTimeouts(Section):
    """Deadlines for what clients send and read. A trickle of bytes extends none of them but `write`."""

    headers: Duration = setting("10s", "From the first byte of a request to the end of its headers.")
    body: Duration = setting("60s", "From the end of the headers to the end of the body.")
    keep_alive: Duration = setting("75s", "How long an idle connection is kept open between requests.")
    write: Duration = setting(
        "60s",
        "How long a client may take nothing of an answer that waits for it. Begins anew whenever it takes something.",
    )


class Log(Section):
    """What the gateway prints to stderr about itself."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "The least serious message that is printed."
    )
    format: Literal["text", "json"] = setting(
        "text", "`text` for people, `json` for machines: one object per line."
    )


class Server(Section):
    """The gateway's own socket and what it accepts there."""

    listen: ListenAddress = setting(
        "127.0.0.1:8080",
        "Address and port, as `host:port` or `[::1]:port`. Port 0 takes any free port. An address that other machines "
        "can reach needs `keys`, or `auth: none`.",
    )
    auth: Literal["keys", "none"] = setting(
        "keys",
        "`keys`: a request needs one of the keys below; without any key the gateway is open, on loopback only. "
        "`none`: every request is accepted.",
    )
    cors: tuple[Origin, ...] = setting(
        (),
        "Origins whose pages, shown in a browser, may call the gateway and read its answers: "
        "`https://app.example.com`, or `*` for all, which needs `keys`. Empty: no page of another origin may.",
    )
    drain: Wait = setting("30s", "How long running requests may go on after SIGTERM.")
    limits: Limits = setting({}, "How much one client may send, and one engine answer.")
    timeouts: ClientTimeouts = setting({}, "Deadlines for what clients send and read.")
    log: Log = setting({}, "What the gateway prints about itself.")


_QUEUE = "How long a request may wait for a free backend. `0s`: not at all."
_CONNECT = "How long connecting to the backend may take."
_SEND = "How long the backend may take to read the request."
_LONG = "Where no layer sets it, 10m at llama.cpp, llama-cpp-python, Ollama and Transformers."
_FIRST_BYTE = f"From the request being sent to the headers of a streamed answer. {_LONG}"
_FIRST_TOKEN = (
    "From the request being sent to the first content of a streamed answer. "
    f"Bytes of an event under way begin it anew. {_LONG}"
)
_IDLE = (
    "The longest silence between two pieces of an answer that the engine streams, to a client or to be put together. "
    "Comments are silence."
)
_ANSWER = (
    "From the request being sent to the headers of an answer that is not streamed. Left out, as long as `total` "
    "allows: engines begin such an answer when it is complete, which may take minutes."
)
_TOTAL = "From the request's arrival to the end of its answer, every attempt included."


class Timeouts(Section):
    """How long each phase of a request may take."""

    queue: Wait = setting("30s", _QUEUE)
    connect: Duration = setting("2s", _CONNECT)
    send: Duration = setting("30s", _SEND)
    first_byte: Duration = setting("60s", _FIRST_BYTE)
    first_token: Duration = setting("60s", _FIRST_TOKEN)
    idle: Duration = setting("60s", _IDLE)
    answer: Duration | None = setting(None, _ANSWER)
    total: Duration = setting("30m", _TOTAL)


class TimeoutOverrides(Section):
    """Timeouts that differ from what is inherited; a key that is left out is inherited."""

    queue: Wait | None = setting(None, _QUEUE)
    connect: Duration | None = setting(None, _CONNECT)
    send: Duration | None = setting(None, _SEND)
    first_byte: Duration | None = setting(None, _FIRST_BYTE)
    first_token: Duration | None = setting(None, _FIRST_TOKEN)
    idle: Duration | None = setting(None, _IDLE)
    answer: Duration | None = setting(None, _ANSWER)
    total: Duration | None = setting(None, _TOTAL)


class Retry(Section):
    """What happens when an attempt fails before anything of its answer has gone to the client."""

    attempts: int = setting(
        2,
        "How often a request may be tried in all, the first time included. A connection that could not be made does "
        "not count, and when all are spent each fallback still gets its turn.",
        ge=1,
        le=5,
    )


class Breaker(Section):
    """When a failing backend is left alone, while another can do its work. A client's mistake is no failure."""

    failures: int = setting(5, "Failures in a row after which it is left alone.", ge=1, le=1000)
    pause: Duration = setting("30s", "How long at first; each further time in a row by as much longer.")
    longest: Duration = setting("5m", "The longest pause.")


class Defaults(Section):
    """What every backend and model inherits."""

    timeouts: Timeouts = setting({}, "How long each phase of a request may take.")
    retry: Retry = setting({}, "How failed attempts are retried.")
    retry_budget: Share = setting(
        "20%", "How many of the requests being served may be in a further attempt at once; three always may."
    )
    breaker: Breaker = setting({}, "When a failing backend is left alone.")


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


def _target(value: object) -> object:
    if isinstance(value, str):
        return {"model": value}
    if isinstance(value, dict | Target):
        return value
    raise expected("the backend's name for the model, or a map with 'model' and 'weight'")


class Target(Section):
    """One backend that serves a model."""

    model: Line = setting(..., "What the backend calls the model.")
    weight: int = setting(1, "The share of requests, against the other targets' weights.", ge=1, le=1000)


class Model(Section):
    """A name that clients may ask for, and where it is served."""

    aliases: tuple[ModelName, ...] = setting((), "Other names for the same model.")
    targets: Frozen[
        Name, Annotated[Target, BeforeValidator(_target, json_schema_input_type=Line | Target)]
    ] = setting(
        ...,
        "Backends that serve the model: backend to the backend's own name for it, or to a map with `model` and "
        "`weight`.",
    )
    balance: Literal["least_loaded", "round_robin"] = setting(
        "least_loaded", "How one of several targets is chosen."
    )
    fallback: tuple[ModelName, ...] = setting(
        (),
        "Other models, by name or alias, tried in this order when no target can answer. A key that may use this model "
        "may use them so, though it may not name them.",
    )
    timeouts: TimeoutOverrides = setting(
        {}, "Timeouts of requests for this model, where they differ. They win over the backend's."
    )
    retry: Retry | None = setting(None, "How failed attempts are retried. Left out, as in `defaults`.")
    concurrency: int | None = setting(
        None,
        "How many requests run at once; more wait in a queue. Left out, no limit.",
        ge=1,
        le=1_000_000,
    )
    queue_size: int = setting(
        128, "How many requests may wait; more are refused with 503.", ge=0, le=1_000_000
    )
    heartbeat: Duration | None = setting(
        None,
        "Answer a stream's headers at once and send a comment this often until the first token, for clients and "
        "proxies that give up on silence. Failures are then told in the stream. Left out, headers come with the first "
        "token.",
    )


class Key(Section):
    """What a client must present, and what it may use."""

    hash: Hash | None = setting(
        None,
        "`sha256:` and the hex SHA-256 of the key, as `gateway key new` prints it. One of `hash` and `value`.",
    )
    value: Secret | None = setting(
        None,
        "The key itself, from outside this file: `${env.NAME}` or `${file:/path}`. One of `hash` and `value`.",
    )
    models: tuple[ModelGlob, ...] | None = setting(
        None,
        "The models the key may use: names, in which `*` stands for any text and `?` for any one character. "
        "Left out, all.",
        min_length=1,
    )
    tags: tuple[Line, ...] = setting((), "Free text about the holder of the key.")
    admin: bool = setting(
        False, "Whether the key may see and manage the engines: `/gateway/backends` and all below it."
    )

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of the key, whether it was given by `hash` or by `value`."""
        if self.value is not None:
            return hashlib.sha256(self.value.get_secret_value().encode()).hexdigest()
        return (self.hash or "").removeprefix("sha256:")


class Config(Section):
    """The whole config file."""

    server: Server = setting({}, "The gateway's own socket and what it accepts there.")
    defaults: Defaults = setting({}, "What every backend and model inherits.")
    backends: Frozen[Name, BackendConfig] = setting({}, "The engines, by name. At least one.")
    models: Frozen[ModelName, Model] = setting(
        {},
        "The models clients may ask for, by name. Left out, every backend's own models under their own names.",
    )
    keys: Frozen[Name, Key] = setting({}, "Who may use the gateway, by name.")


T = TypeVar("T", bound=BaseModel)


def validate(kind: type[T], value: object) -> T:
    """Read a plain value as `kind`, strictly and without unknown keys. Raises pydantic's ValidationError.

    The value goes in as JSON, because there even strict types accept a list for a tuple and text for a path.
    """
    return kind.model_validate_json(json.dumps(value), strict=True, extra="forbid")

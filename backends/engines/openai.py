"""Any server that speaks OpenAI's API: attached to by its URL, or started by any command.

Rules:
- Of a command the gateway knows nothing. Where the server listens is filled in; everything else is the operator's word.
- Without a path for it, health is the model list's: the one cheap question that every such server answers.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, model_validator

from backends.base import Call, EngineOptions, Health, Launch, LaunchOptions
from backends.dialect.openai import OpenAICompatible
from backends.dialect.ranking import COHERES
from backends.facts.launching import ProcessLaunch, Text, program
from backends.facts.units import MODEL_NAME, Duration

PLACE = re.compile(r"(?<!\{)\{(host|port|model)\}(?!\})")
"""What is filled in. Braces in any other text, such as JSON's and Jinja's, stay as they are."""
INSTALL = "install it, or give its whole path"

UrlPath = Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,255}$")]


class OpenAIOptions(EngineOptions):
    """How to tell whether the server is ready."""

    health: UrlPath | None = Field(
        None,
        description="The path of the server's health check, such as `/health`: it is ready at a status below 300, and "
        "loads its model at 503. Left out, the model list is asked for.",
    )

    def engine(self) -> OpenAI:
        return OpenAI(self)


class OpenAILaunch(ProcessLaunch):
    """How to start a server that speaks OpenAI's API, by any command."""

    command: tuple[Text, ...] = Field(
        min_length=1,
        description="The program and its arguments. `{port}` and `{host}` in them become the address to listen on, "
        "and `{model}` the option `model`; the same is true of `stop` and `env`. YAML needs quotes around them: "
        '`"{port}"`.',
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The port of a server that cannot be told where to listen. Left out, a free one for each start, "
        "which `command` or `env` must name as `{port}`.",
    )
    model: str | None = Field(
        None,
        pattern=f"^{MODEL_NAME}$",
        description="The public name of the model that it serves. Left out, the backend's `models`, or the running "
        "server is asked.",
    )
    health: UrlPath | None = Field(
        None,
        description="The path of the server's health check, such as `/health`: it is ready at a status below 300, and "
        "loads its model at 503. Left out, the model list is asked for.",
    )
    stop: tuple[Text, ...] = Field(
        (),
        description="A command that ends the server, such as `[docker, stop, NAME]`. It is run before SIGTERM, which "
        "follows where it fails or `stop_timeout` is over; also when the server has ended by itself, and when the "
        "gateway was killed.",
    )
    key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = Field(
        None,
        description="The environment variable from which the server takes the key that it demands. It gets a new one "
        "with each start, unless the backend has an `api_key`.",
    )
    start_timeout: Duration = Field(
        1800.0, description="How long it may take until the server is ready, a download included."
    )
    stop_timeout: Duration = Field(
        30.0,
        description="How long the server may take to end after `stop`, or after SIGTERM; then it is killed.",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> OpenAILaunch:
        named = {name for text in (*self.command, *self.env.values()) for name in PLACE.findall(text)}
        if self.port is None and "port" not in named:
            raise ValueError(
                "neither 'command' nor 'env' has {port}: tell the server where to listen, or give its 'port'"
            )
        if self.model is None and "model" in named.union(*map(PLACE.findall, self.stop)):
            raise ValueError("{model} needs the option 'model'")
        return self

    def served_names(self) -> tuple[str, ...]:
        """Return the model, if it is named."""
        return () if self.model is None else (self.model,)

    def engine_options(self) -> EngineOptions | None:
        """Return where its health is asked for, if that is said here."""
        return None if self.health is None else OpenAIOptions(health=self.health)

    def launch(self, host: str, port: int) -> Launch:
        own = port if self.port is None else self.port
        values = {"host": host, "port": str(own), "model": self.model or ""}

        def fill(text: str) -> str:
            return PLACE.sub(lambda found: values[found[1]], text)

        started = self.process((), key_env=self.key_env)
        return Launch(
            program([fill(word) for word in self.command], INSTALL),
            {name: fill(value) for name, value in started.env.items()},
            started.start_timeout,
            started.stop_timeout,
            started.key_env,
            self.port,
            tuple(fill(word) for word in self.stop),
        )


class OpenAI(OpenAICompatible):
    """An OpenAI-compatible server about which nothing more is known."""

    name: ClassVar[str] = "openai"
    checked: ClassVar[str] = "OpenAI's API reference, and this gateway behind itself (run)"
    launch_options: ClassVar[type[LaunchOptions] | None] = OpenAILaunch
    options_type: ClassVar[type[EngineOptions] | None] = OpenAIOptions
    has_functions: ClassVar[bool] = True
    may_be_openai: ClassVar[bool] = True
    keeps: ClassVar[frozenset[str]] = frozenset(COHERES)

    def __init__(self, options: OpenAIOptions | None = None) -> None:
        """Speak to a server as the options say."""
        self._health = None if options is None else options.health

    def health(self) -> Call:
        return super().health() if self._health is None else Call(self._health, method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        if self._health is None:
            return super().health_of(status, body)
        if status < 300:
            return Health.READY
        return Health.LOADING if status == 503 else Health.DOWN

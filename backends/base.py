"""The contract between the gateway and an engine: the values they exchange and the questions an engine answers.

Rules:
- Everything here is a value or a pure function of values. No sockets, no `await`, no clock, no import of `gateway`.
- An `Engine` has no state but its frozen options. State of one request lives in its `StreamDecoder`.
- Options know what follows from them: `EngineOptions` make their engine, `LaunchOptions` the command that starts one.
- Values made for every request are msgspec structs, a tenth of a dataclass's cost; copy them with `structs.replace`.
- The canonical dialect is OpenAI's. An engine that speaks it lets bytes pass; any other engine translates here.
"""

from __future__ import annotations

import enum
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

import msgspec
from pydantic import BaseModel, ConfigDict

from backends.action import Action as Action  # noqa: PLC0414 (others import it from here)
from backends.failure import Failure as Failure  # noqa: PLC0414 (others import it from here)
from backends.failure import Kind as Kind  # noqa: PLC0414 (others import it from here)
from backends.failure import Phase as Phase  # noqa: PLC0414 (others import it from here)
from backends.launch import Launch as Launch  # noqa: PLC0414 (others import it from here)
from backends.load import Reading as Reading  # noqa: PLC0414 (others import it from here)
from backends.load import Signal as Signal  # noqa: PLC0414 (others import it from here)
from backends.load import Signals as Signals  # noqa: PLC0414 (others import it from here)
from backends.load import Status as Status  # noqa: PLC0414 (others import it from here)
from backends.metrics import MetricsPage as MetricsPage  # noqa: PLC0414 (others import it from here)
from backends.operation import NATIVE as NATIVE  # noqa: PLC0414 (others import it from here)
from backends.operation import OLLAMA as OLLAMA  # noqa: PLC0414 (others import it from here)
from backends.operation import Operation as Operation  # noqa: PLC0414 (others import it from here)
from backends.sizing.model import ModelFacts
from backends.sizing.need import Need, Space

LONG_FIRST_TOKEN = 600.0
"""Seconds until the first content of an engine that computes on CPUs: 30,000 tokens of a prompt at 50 per second."""

Headers = Sequence[tuple[bytes, bytes]]
"""Header names in lower case with their values, in the order of arrival."""
ReadFailure = Callable[[int, Headers, bytes], "Failure"]
"""`Engine.failure`: interprets an error by its status, headers and body."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens the engine counted for one request. What it did not tell is None, which is not zero."""

    input: int = 0
    """Of the prompt, whether they were computed or read from a cache."""
    output: int = 0
    """Of the answer, with what it says to itself first."""
    cached: int | None = None
    """Of `input`: read from a cache."""
    cache_write: int | None = None
    """Of `input`: written to a cache."""
    reasoning: int | None = None
    """Of `output`: said to itself."""
    drafted: int | None = None
    """Guessed by a draft model or from what the client predicted, and then verified."""
    accepted: int | None = None
    """Of `drafted`: found right."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A client's request, decoded only as far as the gateway needs it; `body` is what the client sent."""

    operation: Operation
    body: bytes
    model: str
    stream: bool = False
    stream_options: bool = False
    """Whether the client sent `stream_options`."""
    include_usage: bool = False
    """Whether the client asked for usage in the stream."""
    choices: int = 1
    """How many choices the client asked for: `n`, for each of its prompts."""
    content_type: bytes = b"application/json"
    """The body's type. Audio is uploaded as a form (`multipart/form-data; boundary=...`)."""
    headers: Headers = ()
    """Headers of the client that belong to the API, such as `anthropic-beta`, for engines that speak it."""
    translate: bool = False
    """Whether the client wants it translated even where the engine speaks the client's API itself."""
    continues: str = ""
    """The response that it continues, whose conversation stands in the body already; empty if it continues none."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """An HTTP request to an engine.

    `path` starts with a slash and is relative to the backend's base URL. `content_type` applies only to a body. `then`
    is sent once this one has succeeded, and its answer is the one that counts; only an operator's action has it.

    `whole` says that the engine is asked for a whole answer although the client wants a stream, because its own stream
    of such an answer cannot be used. `Engine.call` then leaves `stream` out of the body, and `Engine.reply` gets the
    answer with the client's request, whose `stream` is true: its `Reply.body` is the events of the client's stream,
    `[DONE]` included. `OpenAICompatible.reply` writes them (`dialect.unstreamed`), so an engine that speaks OpenAI's
    API has nothing else to do. The time limits are those of a whole answer, `answer` and `total`: such an engine says
    nothing until it has finished. Of a request without `stream` it means nothing.

    `dropped` names what the client asked for and the engine is not sent, see `backends.dialect.dropped`. `native` says
    that the engine is asked in an API of its own, to which the client's request is translated.
    """

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Headers = ()
    content_type: bytes = b"application/json"
    then: Call | None = None
    whole: bool = False
    dropped: tuple[str, ...] = ()
    native: bool = False


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A complete answer in OpenAI's shape, ready for the client; JSON, except audio and images."""

    body: bytes
    usage: Usage | None = None
    content_type: bytes = b"application/json"


class StreamDecoder(Protocol):
    """Turns the pieces of one streamed reply into OpenAI's SSE, and reports what passed.

    The attributes describe everything fed so far. After `failure` is set, nothing more is fed. The state and the rules
    that decoders share are in `backends.dialect.decoder`.
    """

    content: int
    """Events so far with something a client could use; `backends.dialect.content` defines what that is."""
    events: int
    """The number of the next event, where the client's API numbers them; else any."""
    identity: str  # the id of the answer, where the API names it again when a stream breaks; else empty
    usage: Usage | None
    finished: bool
    """Whether the stream is complete: its terminal event was seen."""
    enough: bool
    """Whether it is complete although the engine would go on. Nothing more is fed then, and the engine is left."""
    failure: Failure | None
    growing: bool
    """Whether the last bytes belong to an event that has not ended: the engine is sending something large."""

    def bound(self, size: int) -> None:
        """Let no event be larger than `size` bytes; one that is fails the stream with `Kind.LIMIT`."""

    def feed(self, data: bytes) -> bytes:
        """Process the next bytes of the reply; return whole SSE events for the client, possibly none."""

    def close(self) -> bytes:
        """Process the end of the reply; return what is still to be sent, such as a `[DONE]` the engine omitted."""


class Health(enum.StrEnum):
    """The result of probing a backend, or of its probe and the one for its sleep."""

    READY = "ready"
    LOADING = "loading"
    ASLEEP = "asleep"
    """It has released its memory, and answers no request until somebody wakes it."""
    DOWN = "down"
    STOPPED = "stopped"
    """The gateway has not started it, and does when somebody asks for it. No probe says so."""


ABILITIES: Final = ("completion", "tools", "insert", "vision", "embedding", "thinking")
"""What a model can do, in Ollama's words: answer, call tools, fill in text, see images, embed, and think."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as its engine lists it.

    `context` is the most tokens of prompt and answer together, if known. `abilities` are all that the model can do,
    some of `ABILITIES`; None where the engine does not tell. `odd` says what could not be read of it; a card without
    a name is only there to say that.
    """

    id: str
    context: int | None = None
    odd: str = ""
    abilities: frozenset[str] | None = None


class RequestError(Exception):
    """An engine cannot be asked for this. `failure` is UNSUPPORTED if another backend may be able to, else REJECTED."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class OptionsError(Exception):
    """The `options` of a backend cannot be used. The message is one line for the operator."""


class LaunchError(Exception):
    """The engine cannot be started as configured. The message is one line for the operator."""


class Options(BaseModel):
    """A section of the config file whose keys depend on the engine: immutable, with no unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


class EngineOptions(Options):
    """How to speak to an engine: the `options` of a backend. Every field has a default."""

    @abstractmethod
    def engine(self) -> Engine:
        """Return the engine with these options. Raise OptionsError where a file they name cannot be used."""


class LaunchOptions(Options):
    """How to start an engine: the `launch` section of a backend."""

    @abstractmethod
    def served_names(self) -> tuple[str, ...]:
        """Return the public model names the engine will serve; none where only the running engine can tell."""

    @abstractmethod
    def launch(self, host: str, port: int) -> Launch:
        """Return the command that starts the engine. Raise LaunchError where it cannot work (a missing file)."""

    def longest(self) -> int | None:
        """Return how many tokens a request may use, prompt and answer together; None where no option says so."""
        return None

    def files(self) -> Path | None:
        """Return where the model's files are, a file or a folder; None where they are not on this machine."""
        return None

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        """Return the memory that the engine takes for this model; None where that cannot be reckoned.

        `space` has the GPUs that the engine may use. Nothing is measured: whoever has measured the engine knows better.
        """
        return None

    def notes(self) -> tuple[str, ...]:
        """Return what the operator should know of options that can be used; each note is one line."""
        return ()

    def slots(self) -> int | None:
        """Return how many requests the engine will compute at once; None where the options do not say."""
        return None

    def with_adapters(self, paths: Sequence[str]) -> Self:
        """Return the options to start it with these LoRA adapters too, applied to no request that does not ask."""
        return self

    def engine_options(self) -> EngineOptions | None:
        """Return the engine options that follow from launching it so, which replace the backend's own; else None."""
        return None


class Engine(ABC):
    """What the gateway knows of one kind of inference software."""

    name: ClassVar[str]
    checked: ClassVar[str]
    """The engine version that the facts in its file were checked against, and how (run, recordings, source)."""
    launch_options: ClassVar[type[LaunchOptions] | None] = None
    """The type of a backend's `launch` section; None where the engine is only attached to by URL."""
    options_type: ClassVar[type[EngineOptions] | None] = None
    """The type of a backend's `options` section; None where the engine has no options."""
    operations: ClassVar[frozenset[Operation]] = NATIVE
    parallel: ClassVar[int | None] = None
    """The most requests to send to a backend at once, if it has no queue of its own; the gateway queues the rest."""
    first_token: ClassVar[float | None] = None
    """Seconds until the first content where the config sets no limit, for an engine that commonly needs more than the
    general default: it computes on CPUs, or loads a model when it is asked for it."""
    has_functions: ClassVar[bool] = False
    """Whether its chats take the older `functions` and `function_call`; where not, they are said with tools."""
    takes_template: ClassVar[bool] = False
    """Whether its chats take a chat template for one request, in Jinja (`chat_template`)."""
    adapter_operations: ClassVar[frozenset[Operation]] = frozenset()
    """The operations whose requests choose among the LoRA adapters that it has from its start on; empty for an engine
    that has none, or loads them while it runs."""
    request_ids: ClassVar[bool] = True
    """Whether the engine accepts any `x-request-id`. Some refuse ids that are not in their own format."""
    actions: ClassVar[frozenset[Action]] = frozenset()
    version_path: ClassVar[str] = ""  # where it tells its version, as the member `version`
    model_files: ClassVar[tuple[str, ...]] = ()  # the paths of Ollama's API for files of models that it has
    stream_types: ClassVar[tuple[bytes, ...]] = (b"text/event-stream",)
    """Prefixes of the content types that mark an answer as a stream for the decoder."""

    @abstractmethod
    def call(self, request: Request, model: str) -> Call:
        """Return the HTTP request that asks a backend for `request`; `model` is the backend's name for the model.

        Raise RequestError where the engine cannot be asked for it.
        """

    def ignores(self, request: Request) -> bool:
        """Return whether its own form of the operation would ignore what is asked, so that it is better translated."""
        return False

    @abstractmethod
    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        """Interpret a complete answer with status 200. If a stream was asked for, the reply's body is its events."""

    @abstractmethod
    def decoder(self, request: Request, model: str) -> StreamDecoder:
        """Return a new decoder for one streamed answer with status 200."""

    @abstractmethod
    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        """Interpret an answer with any other status."""

    def refusal(self, request: Request, status: int, headers: Headers, body: bytes) -> Reply | Failure:
        """Interpret the answer with any other status to this request: a failure, unless the model's answer is in it."""
        return self.failure(status, headers, body)

    @abstractmethod
    def health(self) -> Call:
        """Return the probe that tells whether the engine is ready, loading or down."""

    @abstractmethod
    def health_of(self, status: int, body: bytes) -> Health:
        """Interpret the answer to the probe."""

    def health_again(self, status: int) -> Call | None:
        """Return a second probe for an engine whose first answer with `status` may be out of date; usually None.

        The engine counts as what the first answer said, unless the second one has status 200.
        """
        return None

    def sleeping(self) -> Call | None:
        """Return the probe that tells whether an engine that is ready sleeps; None where `health` tells, or it cannot.

        An engine that has no such path, and answers with 404, is not asked again while it is ready.
        """
        return None

    def sleeps(self, body: bytes) -> bool:
        """Interpret the answer to `sleeping`, which had status 200."""
        return False

    def models(self) -> Call:
        """Return the request that lists the models a backend serves."""
        return Call("/v1/models", method="GET")

    @abstractmethod
    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        """Return the models in an answer with status 200. Raise ValueError where it is none; `facts.cards` reads it."""

    def signal_calls(self) -> tuple[Call, ...]:
        """Return the requests that read the engine's load, sent anew for each reading; none if it reports none."""
        return ()

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        """Return the signals in the answers to `signal_calls`; an answer is None if it failed or was not 200."""
        return {}

    def metrics(self) -> MetricsPage | None:
        """Return the engine's own metrics page and what is read of it; None where it has none in Prometheus' format."""
        return None

    def page(self, name: str, model: str) -> Call | None:
        """Return the request for one of the engine's own pages about a model; None where it has no page of this name.

        It loads nothing and wakes nobody.
        """
        return None

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for one of `actions`. Raise ValueError, for the operator, where arguments are wrong."""
        raise NotImplementedError(f"{self.name} has no action {action}")

    def adapters(self) -> Call:
        """Return the request that lists the adapters, of an engine with `adapter_operations`."""
        raise NotImplementedError(f"{self.name} has no adapters from its start on")

    def choice(self, listed: bytes | None, path: str, launched: bool) -> Mapping[str, bytes]:
        """Return the members, in JSON, by which requests choose the adapter at `path`, as `listed` has it.

        Without a list they choose none. `launched`: `LaunchOptions.with_adapters` has started it. Raise LookupError
        where it is not listed, ValueError where that is no list.
        """
        raise NotImplementedError(f"{self.name} has no adapters from its start on")

    @classmethod
    def adapter_name(cls, model: str, adapter: str) -> str:
        """Return what requests call a LoRA adapter that was loaded under a name, for a model that they call so."""
        return adapter

    def log_level(self, line: str) -> int:
        """Return the severity of a line the engine printed, as a level of `logging`."""
        return logging.INFO

    def crash_reason(self, log: Sequence[str]) -> str | None:
        """Return one line that says why the process died, from the last lines it printed; None if they do not say."""
        return None

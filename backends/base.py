"""The contract between the gateway and an engine: the values they exchange and the questions an engine answers.

Rules:
- Everything here is a value or a pure function of values. No sockets, no `await`, no clock, no import of `gateway`.
- An `Engine` object has no state but its frozen options. What belongs to one request lives in its `StreamDecoder`.
- Values that every request makes are msgspec's structs, made in a tenth of a dataclass's time; see `structs.replace`.
- The canonical dialect is OpenAI's. An engine that speaks it lets bytes pass; one that does not translates here.
"""

from __future__ import annotations

import enum
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec
from pydantic import BaseModel

Headers = Sequence[tuple[bytes, bytes]]
"""Header names in lower case with their values, in the order they came."""


class Operation(enum.StrEnum):
    """What a client may ask of an engine."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    """Documents in the order of their relevance to a query (Jina's and Cohere's form)."""
    SCORE = "score"
    """How well pairs of texts fit (vLLM's form)."""
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    INFILL = "infill"
    """Text between a prefix and a suffix (llama.cpp's form)."""
    RESPONSES = "responses"
    """OpenAI's Responses API, for engines that speak it themselves."""
    MESSAGES = "messages"
    """Anthropic's Messages API, for engines that speak it themselves."""
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"
    SPEECH = "speech"
    IMAGES = "images"


FORMS = frozenset({Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS})
"""Operations that are asked for with a form (`multipart/form-data`) instead of JSON."""


class Kind(enum.StrEnum):
    """What went wrong between the gateway and an engine. `gateway.errors` says what follows from each."""

    CONNECT = "connect"
    """The engine could not be reached; nothing was sent."""
    RESET = "reset"
    """The engine closed the connection before its reply was complete."""
    TIMEOUT = "timeout"
    """A phase took longer than its limit; `Failure.phase` says which."""
    OVERLOADED = "overloaded"
    """The engine is up and refuses more work for now (429, 503)."""
    LOADING = "loading"
    """The engine is up and its model is not loaded yet."""
    REJECTED = "rejected"
    """The engine found the client's request wrong (400, 413, 422)."""
    CONTEXT = "context"
    """The prompt does not fit the model's context."""
    MISSING = "missing"
    """The engine does not have this model."""
    REFUSED = "refused"
    """The engine did not accept the gateway's credentials (401, 403)."""
    FAILED = "failed"
    """The engine reported an error of its own (5xx, or an error event in a stream)."""
    GARBLED = "garbled"
    """The reply is not what the protocol allows: not HTTP, not JSON, too large, cut off."""
    UNSUPPORTED = "unsupported"
    """The engine does not offer this operation."""


class Phase(enum.StrEnum):
    """How far an attempt had come when it failed."""

    CONNECT = "connect"
    SEND = "send"
    FIRST_BYTE = "first_byte"
    FIRST_TOKEN = "first_token"
    STREAM = "stream"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt's failure as facts.

    `message` is fit for a client (no addresses, no secrets), `detail` for the operator's log. `status` is the engine's
    HTTP status if it gave one, `retry_after` its wish in seconds. `code` and `param` are the engine's own OpenAI-style
    fields where it had them.
    """

    kind: Kind
    message: str
    phase: Phase | None = None
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    param: str | None = None
    detail: str = ""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens the engine counted for one request."""

    input: int = 0
    output: int = 0
    cached: int = 0


class Request(msgspec.Struct, frozen=True, gc=False):
    """A client's request, decoded only as far as the gateway must know it; `body` is what the client sent."""

    operation: Operation
    body: bytes
    model: str
    stream: bool = False
    stream_options: bool = False
    """The client sent a `stream_options` of its own."""
    include_usage: bool = False
    """The client asked for usage in the stream."""
    content_type: bytes = b"application/json"
    """What the body is. Audio comes as a form (`multipart/form-data; boundary=...`)."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """An HTTP request to an engine. `path` starts with a slash and is relative to the backend's base URL.
    `content_type` is that of a body, if there is one."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Headers = ()
    content_type: bytes = b"application/json"


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A complete answer in OpenAI's shape, ready for the client. `content_type` is JSON but for audio and images."""

    body: bytes
    usage: Usage | None = None
    content_type: bytes = b"application/json"


class StreamDecoder(Protocol):
    """Turns the pieces of one streamed reply into OpenAI's SSE and reports what went by.

    The attributes are facts up to the last `feed`. After `failure` is set nothing more is fed.
    """

    content: int
    """Events so far that carried content, reasoning or a tool call."""
    usage: Usage | None
    finished: bool
    """A terminal event was seen: the stream is complete."""
    failure: Failure | None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the reply; return whole SSE events for the client, possibly none."""

    def close(self) -> bytes:
        """The reply ended; return what is still to be sent (such as a `[DONE]` the engine left out)."""


class Health(enum.StrEnum):
    """What a probe says of a backend."""

    READY = "ready"
    LOADING = "loading"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as its engine lists it. `context` is the longest prompt plus answer in tokens, where known."""

    id: str
    context: int | None = None


class Signal(enum.StrEnum):
    """What engines tell of their load, under one name each."""

    RUNNING = "running"
    """Requests being computed."""
    WAITING = "waiting"
    """Requests the engine has accepted and not begun."""
    SLOTS = "slots"
    """Requests it can compute at once."""
    KV_USE = "kv_use"
    """The part of the cache for keys and values in use, from 0 to 1."""
    PREFIX_HITS = "prefix_hits"
    """The part of looked-up prompt tokens that were found in the prefix cache, from 0 to 1, since the start."""
    MODELS = "models"
    """Models in memory; a reading names them."""
    LORAS = "loras"
    """LoRA adapters in use; a reading names them."""
    ASLEEP = "asleep"
    """1 while the engine has given its memory back and must be woken."""


class Status(enum.StrEnum):
    """How far a reading can be trusted."""

    OK = "ok"
    MISSING = "missing"
    """The engine was asked and does not say it: switched off, renamed in a newer version, or not there yet."""
    STALE = "stale"
    """It was ok once; the engine has not said it again for a while."""
    SUSPECT = "suspect"
    """It is there and cannot be right: out of range, or idle while the gateway's own requests run."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal as an engine told it. `value` is None unless it was told; `names` for signals that count named things;
    `source` is the engine's own name for it, or why it is missing."""

    status: Status
    value: float | None = None
    names: tuple[str, ...] = ()
    source: str = ""


Signals = Mapping[Signal, Reading]
"""Every signal the engine is known to tell, also those it did not. One that is not in here it never tells."""


class Action(enum.StrEnum):
    """What an operator may have an engine do with its models."""

    LIST = "list"
    PS = "ps"
    """The models in memory."""
    SHOW = "show"
    PULL = "pull"
    CREATE = "create"
    COPY = "copy"
    DELETE = "delete"
    LOAD = "load"
    UNLOAD = "unload"
    LOAD_LORA = "load_lora"
    UNLOAD_LORA = "unload_lora"
    SLEEP = "sleep"
    WAKE = "wake"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an engine as a child process that serves HTTP on `host:port`."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 300.0
    """Seconds until the engine must answer its health probe."""
    stop_timeout: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    key_env: str | None = None
    """The environment variable from which the engine takes the key that its clients must send as a bearer token; None
    where it takes none this way. The gateway then makes a key for each start."""


class RequestError(Exception):
    """`Engine.call` has no way to ask this engine for what the client wants; `failure` says why. It is UNSUPPORTED
    where another backend may be asked, or REJECTED."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class OptionsError(Exception):
    """A backend's `options` cannot be used. The message is one line for the operator."""


class LaunchError(Exception):
    """The engine cannot be started as configured. The message is one line for the operator."""


class Engine(ABC):
    """What the gateway knows of one kind of inference software."""

    name: ClassVar[str]
    checked: ClassVar[str]
    """The version of the engine that the facts in its file were checked against, and how (run, recordings, source)."""
    launch_options: ClassVar[type[BaseModel] | None] = None
    """The options of `launch:` in the config file; None where the engine is only ever attached to by URL."""
    options_type: ClassVar[type[BaseModel] | None] = None
    """The `options:` of a backend of this engine, all with defaults; None where there are none."""
    operations: ClassVar[frozenset[Operation]] = frozenset(Operation)
    parallel: ClassVar[int | None] = None
    """Requests a backend can be sent at once, where it can neither compute more nor let them wait; they wait in the
    gateway then. None: the engine has a queue of its own."""
    request_ids: ClassVar[bool] = True
    """Any `x-request-id` may be sent to it. Some refuse those that are not of their own making."""
    actions: ClassVar[frozenset[Action]] = frozenset()
    stream_types: ClassVar[tuple[bytes, ...]] = (b"text/event-stream",)
    """Content types, by their beginning, of answers that are streams for the decoder."""

    def __init__(self, options: Any = None) -> None:
        """`options` is an `options_type` object. Raises OptionsError where a file they name cannot be used."""
        self.options: Any = (
            options if options is not None or self.options_type is None else self.options_type()
        )

    @abstractmethod
    def call(self, request: Request, model: str) -> Call:
        """The HTTP request that asks a backend for `request`, with `model` as the backend knows it. Raises RequestError
        where the engine cannot be asked for it."""

    @abstractmethod
    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        """What a complete answer with status 200 means. Where a stream was asked for, the reply is its events."""

    @abstractmethod
    def decoder(self, request: Request, model: str) -> StreamDecoder:
        """A fresh decoder for one streamed answer with status 200."""

    @abstractmethod
    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        """What an answer with any other status means."""

    @abstractmethod
    def health(self) -> Call:
        """The probe that tells ready from loading from down."""

    @abstractmethod
    def health_of(self, status: int, body: bytes) -> Health:
        """What the answer to the probe means."""

    def models(self) -> Call:
        """The request that lists the models a backend serves."""
        return Call("/v1/models", method="GET")

    @abstractmethod
    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        """The models in the answer. Raises ValueError where the answer is not a list of models."""

    def signal_calls(self) -> tuple[Call, ...]:
        """What to ask for the engine's load, each time anew; none where it tells nothing."""
        return ()

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        """The signals in the bodies of the answers to `signal_calls`; None for one that failed or was not 200."""
        return {}

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """The request that carries out one of `actions`. Raises ValueError, fit for the operator, where an argument is
        missing, unknown or wrong."""
        raise NotImplementedError(f"{self.name} has no action {action}")

    def served_names(self, options: Any) -> tuple[str, ...]:
        """The public model names a backend launched with `options` serves; options is a `launch_options` object. None
        at all where only the running engine can tell: it is asked then."""
        raise NotImplementedError(f"{self.name} cannot be launched")

    def launch(self, options: Any, host: str, port: int) -> Launch:
        """The command line that starts the engine. Raises LaunchError where it cannot work (a missing file)."""
        raise NotImplementedError(f"{self.name} cannot be launched")

    def launched(self, options: Any) -> Engine:
        """The engine as it is spoken to where it was launched with `options`: itself, unless it minds."""
        return self

    def log_level(self, line: str) -> int:
        """How serious a line the engine printed is, as a level of `logging`."""
        return logging.INFO

    def crash_reason(self, log: Sequence[str]) -> str | None:
        """One line that says why the process died, from the last lines it printed, or None."""
        return None

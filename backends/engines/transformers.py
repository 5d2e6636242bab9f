"""Transformers: the server of Hugging Face's library (`transformers serve`), attached to by URL or launched.

Facts are those of Transformers 5.23.

Rules:
- The server refuses requests with an unknown field, so only known ones are sent. Sampling parameters beyond OpenAI's go
  into its `generation_config`; what no field can carry is left out.
- What the server would accept and ignore is refused here, because another backend may be able to do it: several
  choices, log probabilities, a response format.
- The server reports a client's mistakes as internal errors without a message. Those that can be recognized are reported
  here, before the request is sent.
- The server's answer includes the stop string; it is cut off here.
- The server is always asked for a stream, because only then does it notice that a client has left (measured: of an
  answer of 16 s whose client leaves after 1.5 s, a stream stops within 0.1 s, a whole answer is computed to its end).
  The stream ends without `[DONE]`; usage is in the event with the finish reason.
- Most templates know no role `developer`, and some leave out what they do not know: such messages become `system`.
- Its streamed transcriptions are bare text, in which line breaks are lost, so a whole one is asked for (`Call.whole`).
- Started without a model (`transformers serve` alone), the server loads a model during the first request for it, and
  lists the models in the hub's cache. Started with a model, it accepts only that model's name, or none (`pinned`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field, JsonValue

from backends.base import (
    LONG_FIRST_TOKEN,
    Action,
    Call,
    EngineOptions,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchOptions,
    Operation,
    Request,
    RequestError,
    StreamDecoder,
)
from backends.dialect import edits, rewrite
from backends.dialect.chunks import StopCutter
from backends.dialect.dropped import dropped
from backends.dialect.errors import unreadable
from backends.dialect.openai import PATHS, OpenAICompatible
from backends.dialect.stream import EventStream
from backends.facts import logs
from backends.facts.actions import checked_arguments
from backends.facts.launching import Count, ServerLaunch, Text, arguments, program
from backends.facts.units import Share
from backends.framing import multipart, sse
from backends.sizing.model import ModelFacts
from backends.sizing.need import GIB, Need, Space
from backends.sizing.serving import BATCH, ServingPlan, serving

COMMAND = ("transformers", "serve")
INSTALL = "install it with `pip install 'transformers[serving]' torch`"
CACHE_SHARE = 0.9
"""How much of the free memory of a GPU the KV cache takes with continuous batching, where no option says so."""
PROGRAM = 1 * GIB
"""RAM of the server itself: Python, torch and the library."""
MAX_NEW_TOKENS = 1024
"""The most tokens of an answer if the request sets no limit; with a `generation_config` the default would be 20."""


class TransformersOptions(EngineOptions):
    """How to speak to `transformers serve`."""

    pinned: bool = Field(
        False,
        description="Whether the server was started with one model (`transformers serve MODEL`) whose name differs "
        "from the one here. It is sent no model name then. Set automatically where the gateway launches it.",
    )

    def engine(self) -> Transformers:
        return Transformers(self)


class TransformersLaunch(ServerLaunch):
    """How to start `transformers serve` with one model."""

    device: Text | None = Field(
        None, description="Where the model runs, such as `cpu` or `cuda:0`. Left out, chosen by the engine."
    )
    dtype: Text | None = Field(
        None, description="The type of the weights, such as `bfloat16`. Left out, as the model says."
    )
    quantization: Literal["bnb-4bit", "bnb-8bit"] | None = Field(
        None, description="How the weights are quantized while they are loaded, with bitsandbytes."
    )
    attention: Text | None = Field(
        None, description="The implementation of attention, such as `sdpa` or `flash_attention_2`."
    )
    compile: bool = Field(
        False, description="Whether the model is compiled with torch: slower to start, faster to answer."
    )
    continuous_batching: bool = Field(
        False,
        description="Whether requests are computed together. Needs a GPU; otherwise they are computed one after the "
        "other.",
    )
    gpu_memory: Share | None = Field(
        None, description="How much of the GPU's memory the KV cache takes, with `continuous_batching`."
    )
    max_batched_tokens: Count | None = Field(
        None, description="Tokens that are computed in one step, with `continuous_batching`."
    )
    reasoning: Literal["on", "off", "auto"] | None = Field(
        None, description="Whether a reasoning model reasons. Left out, as its chat template says."
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        {}, description="Settings for the chat template, such as `{enable_thinking: false}`."
    )
    trust_remote_code: bool = Field(
        False, description="Whether Python code that comes with the model may run in the engine."
    )
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="The random seed. Left out, a random one.")

    def launch(self, host: str, port: int) -> Launch:
        argv = [
            *program(self.command or COMMAND, INSTALL),
            self.located(),
            "--host",
            host,
            "--port",
            str(port),
        ]
        return self.process([*argv, *arguments(self, FLAGS), *self.extra_args])

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        seen = Space(ram=space.ram) if self.device == "cpu" else self.space(space)
        share = (self.gpu_memory or CACHE_SHARE) if self.continuous_batching else None
        plan = ServingPlan(
            tokens=None,
            batch=self.max_batched_tokens or BATCH,
            dtype=self.dtype,
            quantization=self.quantization,
            share=share,
            of_free=True,
            program=PROGRAM,
        )
        return serving(facts, plan, seen)

    def engine_options(self) -> TransformersOptions:
        """Return options that say `pinned`: the server is started with a model of its own."""
        return TransformersOptions(pinned=True)


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "device": "--device",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "attention": "--attn-implementation",
    "compile": "--compile",
    "continuous_batching": "--continuous-batching",
    "gpu_memory": "--cb-max-memory-percent",
    "max_batched_tokens": "--cb-max-batch-tokens",
    "reasoning": "--reasoning",
    "chat_template_kwargs": "--chat-template-kwargs",
    "trust_remote_code": "--trust-remote-code",
    "seed": "--default-seed",
}

_SHARED = frozenset(
    "model stream stop temperature top_p seed frequency_penalty logit_bias generation_config".split()
)
FIELDS: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: _SHARED
    | {"messages", "max_tokens", "max_completion_tokens", "tools", "chat_template_kwargs"},
    Operation.COMPLETIONS: _SHARED | {"prompt", "max_tokens", "suffix"},
}
"""The fields it reads. It ignores OpenAI's other fields and refuses any others."""

GENERATION = {
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "min_tokens": "min_new_tokens",
    "length_penalty": "length_penalty",
    "do_sample": "do_sample",
}
"""Sampling parameters: the names that other engines use, and those of Transformers' generation."""


class _Message(msgspec.Struct):
    content: str | list[msgspec.Raw] | None = None


class _Format(msgspec.Struct):
    type: str = "text"


class _Asked(msgspec.Struct):
    """The members of a request that are checked."""

    messages: list[_Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    logprobs: bool | int | None = None
    response_format: _Format | None = None
    generation_config: str | None = None
    stop: str | list[str] | None = None


_asked = msgspec.json.Decoder(_Asked)
_CHECKED = frozenset(_Asked.__struct_fields__)


class Transformers(OpenAICompatible):
    """`transformers serve`."""

    name: ClassVar[str] = "transformers"
    checked: ClassVar[str] = "Transformers 5.23.0 (run, recordings)"
    first_token: ClassVar[float | None] = LONG_FIRST_TOKEN
    options_type: ClassVar[type[EngineOptions] | None] = TransformersOptions
    launch_options: ClassVar[type[LaunchOptions] | None] = TransformersLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.TRANSCRIPTIONS}
    )
    actions: ClassVar[frozenset[Action]] = frozenset({Action.LIST, Action.LOAD, Action.UNLOAD})

    def __init__(self, options: TransformersOptions | None = None) -> None:
        self.pinned = options is not None and options.pinned

    def call(self, request: Request, model: str) -> Call:
        fields = FIELDS.get(request.operation)
        if fields is None:
            call = super().call(request, model)
            if request.operation is Operation.TRANSCRIPTIONS and request.stream:
                return _whole(call)
            return _nameless(call) if self.pinned and request.operation is Operation.RESPONSES else call
        wish = _wish(request)
        sent = rewrite.members(request.body)
        left_out = dropped(sent, fields | GENERATION.keys() | _CHECKED)
        moved = {GENERATION[name]: sent[name] for name in GENERATION.keys() & sent.keys()}
        sent = {name: value for name, value in sent.items() if name in fields and value != b"null"}
        if moved:
            sent["generation_config"] = _generation(moved, wish)
        edits.developer(sent)
        sent |= {"model": msgspec.json.encode(model), "stream": b"true"}
        call = Call(PATHS[request.operation], rewrite.joined(sent), dropped=left_out)
        return _nameless(call) if self.pinned else call

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        stops = _stops(request) if request.operation in FIELDS else ()
        return _StoppedStream(self, request, stops) if stops else super().decoder(request, model)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        if status == 400 and _PINNED.match(failure.detail):
            return dataclasses.replace(failure, kind=Kind.MISSING, message="the engine serves another model")
        return failure

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        """Interpret the answer to the probe: 503 means that continuous batching has died for good."""
        return Health.READY if status == 200 else Health.DOWN

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `load` takes `model`. `list` and `unload`, which unloads all models, take no argument.
        """
        match action:
            case Action.LIST:
                checked_arguments(action, arguments, {})
                return self.models()
            case Action.LOAD:
                return Call(
                    "/load_model", msgspec.json.encode(checked_arguments(action, arguments, {"model": str}))
                )
            case Action.UNLOAD:
                checked_arguments(action, arguments, {})
                return Call("/reset")
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


def _whole(call: Call) -> Call:
    """Return the request for a transcription as one for a whole answer."""
    parts = multipart.parts_of(call.body, multipart.boundary_of(call.content_type))
    named = next(part for part in parts if part.name == "stream")
    return msgspec.structs.replace(call, body=multipart.replaced(call.body, named, b"false"), whole=True)


class _StoppedStream(EventStream):
    """A stream whose text is cut before the client's stop strings."""

    __slots__ = ("_cutter",)

    def __init__(self, engine: OpenAICompatible, request: Request, stops: Sequence[str]) -> None:
        super().__init__(engine, request)
        self._cutter = StopCutter(stops)

    def _alike(self, data: bytes, start: int, end: int) -> bytes | None:
        """Return None: every event is decoded, because its text must be searched for stop strings."""
        return None

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        try:
            chunk = msgspec.json.decode(payload)
            payload = b"" if self._cut(chunk) else msgspec.json.encode(chunk)
        except (ValueError, LookupError, TypeError, AttributeError):
            pass  # not an event with text: the base class interprets it
        return super()._decode(payload, sse.encode(payload)) if payload else b""

    def _cut(self, chunk: Any) -> bool:
        """Cut the text of the one choice; return whether the event has become empty."""
        (choice,) = chunk["choices"]
        said, key = (choice["delta"], "content") if "delta" in choice else (choice, "text")
        text = self._cutter.feed(said.get(key) or "")
        if choice.get("finish_reason"):
            text += self._cutter.close()
        elif said.get(key) and not text:
            return True
        if text or said.get(key):
            said[key] = text
        return False


def _stops(request: Request) -> tuple[str, ...]:
    """Return the stop strings in a request."""
    stop = _asked.decode(request.body).stop
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _nameless(call: Call) -> Call:
    """Return the call without the model's name."""
    sent = rewrite.members(call.body)
    return msgspec.structs.replace(
        call, body=rewrite.joined({name: sent[name] for name in sent if name != "model"})
    )


def _wish(request: Request) -> _Asked:
    """Decode what is checked. Raise RequestError for what the server would ignore, or fail on."""
    try:
        wish = _asked.decode(request.body)
    except msgspec.ValidationError as error:
        raise RequestError(unreadable(error)) from error
    for name in ("max_tokens", "max_completion_tokens"):
        limit = getattr(wish, name)
        if limit is not None and limit < 1:
            raise _rejected(f"'{name}' must be at least 1", name)
    if wish.n is not None and wish.n > 1:
        raise _unsupported("the engine makes one choice for each request", "n")
    if wish.logprobs:
        raise _unsupported("the engine tells no log probabilities", "logprobs")
    if wish.response_format is not None and wish.response_format.type != "text":
        raise _unsupported("the engine cannot hold its answer to a format", "response_format")
    return wish


def _generation(moved: Mapping[str, bytes], wish: _Asked) -> bytes:
    """Return the `generation_config`, JSON as text: the moved parameters, and those of the client, which win."""
    config = {name: value for name, value in moved.items() if value != b"null"}
    if wish.max_tokens is None and wish.max_completion_tokens is None:
        config = {"max_new_tokens": b"%d" % MAX_NEW_TOKENS, **config}
    try:
        own = rewrite.members(wish.generation_config.encode()) if wish.generation_config else {}
    except ValueError as error:
        raise _rejected("'generation_config' must be a text of JSON", "generation_config") from error
    return msgspec.json.encode(rewrite.joined({**config, **own}).decode())


def _rejected(message: str, param: str | None) -> RequestError:
    """Return the error for an invalid request."""
    return RequestError(Failure(Kind.REJECTED, message, param=param))


def _unsupported(message: str, param: str) -> RequestError:
    """Return the error for what the engine cannot do."""
    return RequestError(Failure(Kind.UNSUPPORTED, message, param=param))


_PINNED = re.compile(r"Server is pinned to ")  # 5.23

_CRASHES: logs.Crashes = (
    (re.compile(r"Unsupported dtype: '([^']+)'"), "there is no dtype {0}"),
    (re.compile(r"Unrecognized model in (\S+?)\. "), "{0} is no model that Transformers knows"),
)

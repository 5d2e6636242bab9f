"""Ollama: attached to by URL, or launched with `ollama serve`. It loads models on demand.

The gateway uses Ollama's own API by default: its OpenAI-compatible one at `/v1` has no context length, `top_k` or
`keep_alive`, and silently truncates long prompts. The option `api: openai` selects `/v1` nevertheless; responses,
messages and transcriptions are there only, without the backend's `context`, `keep_alive` and `truncate`. Facts:
ollama/ollama v0.33.0-rc2, `server/routes.go`, `server/sched.go`, `openai/openai.go`, `envconfig/config.go`.

Rules:
- This file knows the server. `requests.py`, `messages.py` and `answers.py` translate; actions on models are in
  `models.py`.
- `/v1` is sent `max_tokens` instead of `max_completion_tokens`, and no tools with `tool_choice: none`: it would ignore
  these. Other members that it ignores although the answer depends on them (`n`, `logit_bias`, a forced `tool_choice`,
  `echo`, `best_of`) are refused. `top_k`, `min_p` and Ollama's own members have no effect there.
- A model that is not in memory is loaded while its first request waits, so Ollama is never "loading": it is up or down.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field, model_validator

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
    ModelCard,
    Operation,
    Reading,
    Reply,
    Request,
    Signal,
    Signals,
    Status,
    StreamDecoder,
)
from backends.dialect.errors import CONTEXT_MARKS, read_failure
from backends.dialect.openai import OpenAICompatible
from backends.engines.ollama.answers import LineStream, reply_of
from backends.engines.ollama.models import ACTIONS, MODEL_FILES, call_for
from backends.engines.ollama.requests import Defaults, edited_body, native_body
from backends.facts import cards
from backends.facts.launching import ProcessLaunch, Text, program
from backends.facts.signals import reading
from backends.facts.units import Duration, Size, Wait

PATHS = {
    Operation.CHAT: "/api/chat",
    Operation.COMPLETIONS: "/api/generate",
    Operation.EMBEDDINGS: "/api/embed",
}
OVER_V1 = (Operation.RESPONSES, Operation.MESSAGES, Operation.TRANSCRIPTIONS)
"""Operations that Ollama's own API has no form of."""
LATEST = ":latest"
"""The tag of a model that was named without a tag; it may be omitted."""


class OllamaOptions(EngineOptions):
    """How to speak to Ollama."""

    api: Literal["native", "openai"] = Field(
        "native",
        description="Ollama's own API, or the OpenAI-compatible one at `/v1`, where the other options cannot be set.",
    )
    context: int | None = Field(
        None,
        ge=1,
        le=4_194_304,
        description="Tokens one request may use, prompt and answer together (`num_ctx`). Left out, the server's "
        "setting. A request with another value makes Ollama reload the model.",
    )
    keep_alive: Wait | None = Field(
        None,
        description="How long a model stays in memory after a request; `0s` unloads it at once. Left out, the server's "
        "setting: 5 minutes by default.",
    )
    truncate: bool | None = Field(
        None,
        description="Whether Ollama may silently cut off the beginning of a prompt that does not fit into the context. "
        "With `false` that is an error. Left out, it may.",
    )

    @model_validator(mode="after")
    def _openai_takes_no_others(self) -> OllamaOptions:
        named = [name for name in ("context", "keep_alive", "truncate") if getattr(self, name) is not None]
        if self.api == "openai" and named:
            raise ValueError(f"'{named[0]}' cannot be set with 'api: openai'")
        return self

    def engine(self) -> Ollama:
        return Ollama(self)


class OllamaLaunch(ProcessLaunch):
    """How to start Ollama's server. It serves the models in its folder: `pull` them, or name another folder."""

    command: tuple[Text, ...] | None = Field(
        None,
        min_length=1,
        description="The program and its first arguments, where it is not `ollama` on the PATH. `serve` follows.",
    )
    models_folder: Path | None = Field(
        None, description="Where models are kept. Left out, `~/.ollama/models`."
    )
    context: int | None = Field(
        None,
        ge=1,
        le=4_194_304,
        description="Tokens one request may use, prompt and answer together, unless the request says otherwise. Left "
        "out, chosen by the size of the GPU's memory: 4096, 32768 or 262144.",
    )
    parallel: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Requests of one model that are computed at the same time. Left out, 1.",
    )
    max_loaded_models: int | None = Field(
        None, ge=1, le=1024, description="Models in memory at the same time. Left out, 3 per GPU."
    )
    max_queue: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Requests that may wait; more are refused with 503. Left out, 512.",
    )
    keep_alive: Wait | None = Field(
        None, description="How long a model stays in memory after its last request. Left out, 5 minutes."
    )
    load_timeout: Duration | None = Field(
        None, description="How long loading a model may make no progress. Left out, 5 minutes."
    )
    flash_attention: bool | None = Field(
        None,
        description="Whether flash attention is used, which needs less memory. Left out, chosen by model.",
    )
    kv_cache_dtype: Literal["f16", "q8_0", "q4_0"] | None = Field(
        None,
        description="The type of keys and values in the cache. Left out, f16; others need `flash_attention`.",
    )
    gpu_overhead: Size | None = Field(None, description="Memory to leave free on each GPU.")
    spread: bool | None = Field(
        None, description="Whether every model is spread over all GPUs, also one that fits on a single one."
    )
    cloud: bool = Field(
        False, description="Whether models that run on ollama.com may be used through this server."
    )
    debug: bool = Field(False, description="Whether Ollama writes more to the gateway's log.")

    def slots(self) -> int | None:
        return self.parallel

    def served_names(self) -> tuple[str, ...]:
        """Return none: the running server is asked which models are in its folder."""
        return ()

    def launch(self, host: str, port: int) -> Launch:
        command = program(self.command or ("ollama",), "install Ollama from https://ollama.com/download")
        return self.process([*command, "serve"], self._settings(host, port))

    def _settings(self, host: str, port: int) -> dict[str, str]:
        """Return Ollama's environment variables for these options."""
        said = {
            "OLLAMA_HOST": f"{host}:{port}",
            "OLLAMA_MODELS": None if self.models_folder is None else self.models_folder.absolute(),
            "OLLAMA_CONTEXT_LENGTH": self.context,
            "OLLAMA_NUM_PARALLEL": self.parallel,
            "OLLAMA_MAX_LOADED_MODELS": self.max_loaded_models,
            "OLLAMA_MAX_QUEUE": self.max_queue,
            "OLLAMA_KEEP_ALIVE": _go_time(self.keep_alive),
            "OLLAMA_LOAD_TIMEOUT": _go_time(self.load_timeout),
            "OLLAMA_FLASH_ATTENTION": self.flash_attention,
            "OLLAMA_KV_CACHE_TYPE": self.kv_cache_dtype,
            "OLLAMA_GPU_OVERHEAD": self.gpu_overhead,
            "OLLAMA_SCHED_SPREAD": self.spread,
            "OLLAMA_NO_CLOUD": not self.cloud or None,
            "OLLAMA_DEBUG": self.debug or None,
        }
        return {
            name: str(int(value)) if isinstance(value, bool) else str(value)
            for name, value in said.items()
            if value is not None
        }


def _go_time(seconds: float | None) -> str | None:
    """Return a duration in Go's format."""
    return None if seconds is None else f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


class _Words(msgspec.Struct):
    message: str = ""


class _Complaint(msgspec.Struct):
    error: str | _Words


_complaint = msgspec.json.Decoder(_Complaint)


class Ollama(OpenAICompatible):
    """Ollama's server."""

    name: ClassVar[str] = "ollama"
    checked: ClassVar[str] = (
        "Ollama v0.33.0-rc2 (source), its Python client 0.6.3 (types), answers other projects recorded"
    )
    first_token: ClassVar[float | None] = LONG_FIRST_TOKEN
    launch_options: ClassVar[type[LaunchOptions] | None] = OllamaLaunch
    options_type: ClassVar[type[EngineOptions] | None] = OllamaOptions
    operations: ClassVar[frozenset[Operation]] = frozenset({*PATHS, *OVER_V1})
    actions: ClassVar[frozenset[Action]] = ACTIONS
    version_path: ClassVar[str] = "/api/version"
    model_files: ClassVar[tuple[str, ...]] = MODEL_FILES
    stream_types: ClassVar[tuple[bytes, ...]] = (b"application/x-ndjson", b"text/event-stream")

    def __init__(self, options: OllamaOptions | None = None) -> None:
        options = options or OllamaOptions()
        self._native = options.api == "native"
        self._defaults = Defaults(options.context, options.keep_alive, options.truncate)

    def call(self, request: Request, model: str) -> Call:
        if self._speaks_natively(request):
            body, left_out = native_body(request, model, self._defaults)
            return Call(PATHS[request.operation], body, dropped=left_out, native=True)
        request = msgspec.structs.replace(request, body=edited_body(request))
        return super().call(request, model)

    def _speaks_natively(self, request: Request) -> bool:
        """Return whether a request is translated to Ollama's own API."""
        return self._native and request.operation in PATHS

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if self._speaks_natively(request):
            return reply_of(request, body, self.failure)
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        if self._speaks_natively(request):
            return LineStream(request, self.failure)
        return super().decoder(request, model)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        said = _said(body)
        if said.startswith('{"error"'):
            # Newer versions run llama-server, and their message can be its whole answer (v0.34).
            return read_failure(status, headers, said.encode())
        failure = read_failure(status, headers, body)
        kind = _kind(status, said)
        if kind is None or kind is failure.kind:
            return failure
        return dataclasses.replace(failure, kind=kind, message=_MESSAGES.get(kind, failure.detail))

    def health(self) -> Call:
        return Call("/api/version", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        return Health.READY if status == 200 and b'"version"' in body else Health.DOWN

    def models(self) -> Call:
        return Call("/api/tags", method="GET")

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        """Return the models on the server's disk. A model with the tag `latest` is listed under both of its names."""
        listed = cards.named(body, "models", "name", "capabilities")
        short = [
            ModelCard(card.id.removesuffix(LATEST), abilities=card.abilities)
            for card in listed
            if card.id.endswith(LATEST)
        ]
        return (*listed, *short)

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/api/ps", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        try:
            names = tuple(card.id for card in cards.named(answers[0] or b"", "models", "name") if card.id)
        except ValueError:
            return {Signal.MODELS: Reading(Status.MISSING, source="/api/ps gave no list of models")}
        return {Signal.MODELS: reading(Signal.MODELS, float(len(names)), "/api/ps", names)}

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        return call_for(action, arguments, self._defaults)

    def log_level(self, line: str) -> int:
        if line.startswith("[GIN]"):
            # One line for each request, the gateway's own probes included.
            return logging.DEBUG
        found = _LEVEL.search(line)
        return _LEVELS.get(found[1], logging.INFO) if found else logging.INFO

    def crash_reason(self, log: Sequence[str]) -> str | None:
        for line in log:
            if "address already in use" in line:
                return "its port was taken by another program"
        return next((line[7:].strip() for line in reversed(log) if line.startswith("Error: ")), None)


_LEVEL = re.compile(r"\blevel=([A-Z]+)")
_LEVELS = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "DEBUG": logging.DEBUG,
    "TRACE": logging.DEBUG,
}
_MESSAGES = {
    Kind.CONTEXT: "the prompt is longer than the model's context",
    Kind.FAILED: "the engine gave the request up",
}


def _said(body: bytes) -> str:
    """Return Ollama's error message; empty if it has none."""
    try:
        error = _complaint.decode(body).error
    except (ValueError, RecursionError):
        return ""
    return error if isinstance(error, str) else error.message


def _kind(status: int, said: str) -> Kind | None:
    """Return the kind of a failure where the wording decides; None where the status does."""
    if any(mark in said for mark in CONTEXT_MARKS):
        return Kind.CONTEXT
    if status == 400 and " does not support " in said:
        # Of chat, tools, thinking, insert or generate: another backend's model may support it.
        return Kind.UNSUPPORTED
    if status == 499:
        return Kind.FAILED
    if status == 404 and not said:
        # A missing model is reported in JSON; without JSON this version does not have the path.
        return Kind.UNSUPPORTED
    return None

"""llama.cpp: its HTTP server, attached to by URL or launched as a child process.

Two runtimes serve the same API: `xllamacpp`, llama.cpp as a Python wheel, started by `llamacpp_runner.py`; or any
`llama-server` program, started directly. Facts are those of llama.cpp b11549 (xllamacpp 2026.10).

Rules:
- The engine is launched under the public model name, so its answers need no rewriting.
- `context` counts per slot here; llama.cpp's own number is the sum over all slots.
- What can be known to fail is refused before the start, in one line that names the file and what to do.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import BaseModel, Field, model_validator

from backends import rewrite
from backends.base import (
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchError,
    ModelCard,
    Operation,
    Request,
)
from backends.launching import LaunchOptions, Text
from backends.openai import OpenAI
from backends.units import MODEL_NAME

BUILT_IN = "xllamacpp"
RUNNER = Path(__file__).with_name("llamacpp_runner.py")
EMBEDDING_BATCH = 2048
"""Tokens llama.cpp may process in one step when it serves embeddings: the longest input it can embed. Its own default
is 512, and longer inputs fail with status 500."""
HEAD = 1 << 20
"""Bytes at a model file's begin in which its own settings stand."""
VERBOSITY = {"error": 1, "warning": 2, "info": 3, "debug": 5}
"""llama.cpp's numbers for log levels (its `--verbosity`)."""


class LlamaCppLaunch(LaunchOptions):
    """How to start llama.cpp's server."""

    model: Path = Field(
        description="The model, a GGUF file. A relative path starts at the working directory."
    )
    name: str | None = Field(
        None,
        pattern=f"^{MODEL_NAME}$",
        description="The model's public name. Left out, the file's name without `.gguf`.",
    )
    runtime: Text = Field(
        BUILT_IN,
        description="`xllamacpp` (pip install 'llm-gateway[llamacpp]'), or the path or name of a `llama-server` "
        "program of 2026 or later.",
    )
    context: int | None = Field(
        None,
        ge=1,
        le=4_194_304,
        description="Tokens one request may use, prompt and answer together. llama.cpp rounds up to a multiple of 256. "
        "Left out, as many as the model was trained for, or as memory allows.",
    )
    parallel: int = Field(4, ge=1, le=256, description="Slots: requests that are computed at the same time.")
    threads: int | None = Field(
        None, ge=1, le=512, description="CPU threads. Left out, one per physical core."
    )
    gpu_layers: int | None = Field(
        None, ge=0, le=9999, description="Layers that live on the GPU. Left out, as many as fit."
    )
    chat_template: Text | None = Field(
        None,
        description="How messages become a prompt, where it differs from what the model file says: the path of a "
        "Jinja file, a Jinja template, or `chatml`.",
    )
    lora: tuple[Path, ...] = Field((), description="LoRA adapters, GGUF files, applied at full strength.")
    embeddings: bool = Field(False, description="Whether the model serves embeddings too, beside chat.")
    pooling: Literal["mean", "cls", "last"] | None = Field(
        None,
        description="How the embeddings of tokens become one. Left out, as the model file says, or else `mean`.",
    )
    extra_args: tuple[str, ...] = Field(
        (),
        description="More settings. For `xllamacpp`, `--name value` or `--name=value` with the names of its "
        "CommonParams, such as `--n-batch 512` or `--sampling.temp=0.5`; for a program, its own arguments.",
    )
    log_level: Literal["error", "warning", "info", "debug"] = Field(
        "error",
        description="How much llama.cpp says in the gateway's log. It warns of ordinary things, such as a client that "
        "has left or a prompt that comes twice.",
    )

    @model_validator(mode="after")
    def _public_name_is_one(self) -> LlamaCppLaunch:
        if not re.fullmatch(MODEL_NAME, self.public_name):
            raise ValueError("the file's name is no model name: give one with 'name'")
        return self

    @property
    def public_name(self) -> str:
        """What clients call the model."""
        return self.name or self.model.stem


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Card(msgspec.Struct):
    id: str
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


_body = msgspec.json.Decoder(_Body)
_models = msgspec.json.Decoder(_Models)


def _error(body: bytes) -> _Error:
    """llama.cpp's typed error, an empty one where the body holds none."""
    try:
        return _body.decode(body).error
    except (msgspec.MsgspecError, RecursionError):
        return _Error()


class LlamaCpp(OpenAI):
    """llama.cpp's server."""

    name: ClassVar[str] = "llamacpp"
    checked: ClassVar[str] = "llama.cpp b11549 in xllamacpp 2026.10.11549 (run)"
    launch_options: ClassVar[type[BaseModel] | None] = LlamaCppLaunch

    def call(self, request: Request, model: str) -> Call:
        """Always a stream, put together by the relay where the client wants a whole. llama.cpp notices that a client of
        a whole answer has left only in a second in which it tells nobody anything: never while it is busy (b11549)."""
        if request.stream or request.operation is Operation.EMBEDDINGS or b'"logprobs"' in request.body:
            # Log probabilities together with tools it refuses to stream.
            return super().call(request, model)
        asked = dataclasses.replace(request, body=rewrite.streamed(request.body), stream=True)
        return super().call(asked, model)

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        if status == 200:
            return Health.READY
        loading = status == 503 and _error(body).type == "unavailable_error"
        return Health.LOADING if loading else Health.DOWN

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        error = _error(body)
        kind = _KINDS.get(error.type)
        # The client's input is at fault at times, though the status is 500 and the type says no more.
        if error.type == "server_error" and _TOO_LARGE.match(error.message):
            kind = Kind.CONTEXT
        elif error.type == "server_error" and _UNFIT.match(error.message):
            return dataclasses.replace(failure, kind=Kind.REJECTED, message=failure.detail)
        if kind is None or kind is failure.kind:
            return failure
        return dataclasses.replace(failure, kind=kind, message=_MESSAGES[kind])

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        try:
            return tuple(
                ModelCard(card.id, card.meta.n_ctx if card.meta else None)
                for card in _models.decode(body).data
            )
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"not a list of models: {error}") from error

    def served_names(self, options: Any) -> tuple[str, ...]:
        assert isinstance(options, LlamaCppLaunch)
        return (options.public_name,)

    def launch(self, options: Any, host: str, port: int) -> Launch:
        assert isinstance(options, LlamaCppLaunch)
        head = _model_head(options.model)
        for adapter in options.lora:
            _model_head(adapter, "LoRA adapter")
        pooling = options.pooling
        if options.embeddings and pooling is None and b".pooling_type" not in head:
            pooling = "mean"
        if options.runtime == BUILT_IN:
            argv, env = _runner_command(options, pooling, host, port)
        else:
            argv, env = _server_command(options, pooling, host, port)
        # After a failed assertion ggml would start a debugger on itself to print where it was.
        env = {"GGML_NO_BACKTRACE": "1", **env, **options.environment()}
        return Launch(argv, env, options.start_timeout, options.stop_timeout)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        lines = [_PREFIX.sub("", line) for line in log]
        for pattern, words in _CRASHES:
            for line in lines:
                found = pattern.search(line)
                if found:
                    return _clearly(words.format(*found.groups()), lines)
        errors = (found for line in log if (found := _PREFIX.match(line)) and found["level"] == "E")
        return next((found.string[found.end() :].strip() for found in errors), None)

    def log_level(self, line: str) -> int:
        """How serious a line of llama.cpp's output is, as a level of `logging`."""
        found = _PREFIX.match(line)
        if _KNOWN.search(line):
            return logging.DEBUG
        return _LEVELS[found["level"]] if found else logging.INFO


_KINDS = {
    "exceed_context_size_error": Kind.CONTEXT,
    "unavailable_error": Kind.LOADING,
    "not_supported_error": Kind.UNSUPPORTED,
}
_MESSAGES = {
    Kind.CONTEXT: "the prompt is longer than the model's context",
    Kind.LOADING: "the engine is loading its model",
    Kind.UNSUPPORTED: "the engine does not offer this operation",
}
_TOO_LARGE = re.compile(r"input \(\d+ tokens\) is too large to process")
_UNFIT = re.compile(
    r"Failed to parse (?:tools|messages|grammar)|image input is not supported|audio input is not"
)
_LEVELS = {"E": logging.ERROR, "W": logging.WARNING, "I": logging.INFO, "D": logging.DEBUG}
_PREFIX = re.compile(r"^\d+(\.\d+){3} (?P<level>[DIWE]) ")
# Told elsewhere: failed requests by their answers, what ended the process by `crash_reason`, in one line.
_KNOWN = re.compile(
    r"^llamacpp_runner: | E .*(send_error: |error loading model|failed to load (model|lora)|lora adapter: "
    r"|chat template|jinja|trying to fit params|gguf_init_from_|failed to create.context|exiting due to"
    r"|common_chat_templates_init)"
)
_CRASHES = (
    (re.compile(r"^llamacpp_runner: (.+)"), "{0}"),
    (re.compile(r"couldn't bind HTTP server socket"), "its port was taken by another program"),
    (re.compile(r"gguf_init_from_\w+: (.+)"), "{0}"),
    (re.compile(r"error loading model: (?:error loading model \w+: )?(.+)"), "{0}"),
    (re.compile(r"(GGML_ASSERT\(.+\) failed)"), "llama.cpp gave up: {0}"),
    (re.compile(r"(unable to allocate .+|failed to allocate .+|CUDA error: .+|out of memory.*)"), "{0}"),
    (re.compile(r"failed to apply lora adapter: (.+)"), "cannot apply a LoRA adapter: {0}"),
    (re.compile(r"common_chat_templates_init: error: (.+)"), "the chat template is not valid: {0}"),
    (re.compile(r"^error: (.+)"), "{0}"),  # llama-server, of its arguments
)
_PATH = re.compile(r"failed to load model,? '(.+)'")


def _clearly(reason: str, lines: list[str]) -> str:
    """The reason with the file it is about, and what to do, where the log says which."""
    path = next((found[1] for line in lines if (found := _PATH.search(line))), None)
    if path is None or path in reason:
        return reason
    advice = "; download it again" if "corrupted or incomplete" in reason else ""
    return f"cannot load {path}: {reason}{advice}"


def _model_head(path: Path, what: str = "model") -> bytes:
    """The first bytes of a GGUF file. Raises LaunchError where there is none."""
    where = path if path.is_absolute() else f"{path} (in {Path.cwd()})"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        raise LaunchError(
            f"there is no {what} file {where}: put a GGUF file there or correct the path"
        ) from None
    except OSError as error:
        raise LaunchError(f"cannot read the {what} file {where}: {error.strerror}") from error
    if head.startswith(b"GGUF"):
        return head
    if head.startswith(b"version https://git-lfs"):
        raise LaunchError(f"the {what} file {where} is only a Git LFS pointer: run `git lfs pull`")
    found = f"begins with {head[:8]!r}" if head else "is empty"
    raise LaunchError(f"the {what} file {where} is not in GGUF format, it {found}: download it again")


def _runner_command(
    options: LlamaCppLaunch, pooling: str | None, host: str, port: int
) -> tuple[tuple[str, ...], dict[str, str]]:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LaunchError(
            "the Python package xllamacpp is not installed: pip install 'llm-gateway[llamacpp]', "
            "or name a llama-server program with 'runtime'"
        )
    argv = [sys.executable, "-P", str(RUNNER), f"--model={options.model}", f"--name={options.public_name}"]
    argv += ["--host", host, "--port", str(port), "--parallel", str(options.parallel)]
    argv += ["--verbosity", str(VERBOSITY[options.log_level])]
    if options.context is not None:
        argv += ["--context", str(options.context * options.parallel)]
    if options.threads is not None:
        argv += ["--threads", str(options.threads)]
    if options.gpu_layers is not None:
        argv += ["--gpu-layers", str(options.gpu_layers)]
    if options.chat_template is not None:
        template = _template_file(options.chat_template)
        argv += (
            [f"--chat-template-file={template}"] if template else [f"--chat-template={options.chat_template}"]
        )
    for adapter in options.lora:
        argv += [f"--lora={adapter}"]
    if options.embeddings:
        argv += ["--embeddings", "--ubatch", str(_embedding_batch(options))]
    if pooling is not None:
        argv += ["--pooling", pooling]
    return (*argv, "--", *options.extra_args), {}


def _server_command(
    options: LlamaCppLaunch, pooling: str | None, host: str, port: int
) -> tuple[tuple[str, ...], dict[str, str]]:
    program = shutil.which(options.runtime)
    if program is None:
        raise LaunchError(
            f"there is no program {options.runtime}: install llama-server, or leave 'runtime' out to use xllamacpp"
        )
    argv = [program, "-m", str(options.model), "-a", options.public_name, "--host", host, "--port", str(port)]
    argv += ["-np", str(options.parallel), "--metrics"]
    if options.context is not None:
        argv += ["-c", str(options.context * options.parallel)]
    if options.threads is not None:
        argv += ["-t", str(options.threads)]
    if options.gpu_layers is not None:
        argv += ["-ngl", str(options.gpu_layers)]
    if options.chat_template is not None:
        template = _template_file(options.chat_template)
        argv += (
            ["--chat-template-file", str(template)]
            if template
            else ["--chat-template", options.chat_template]
        )
    for adapter in options.lora:
        argv += ["--lora", str(adapter)]
    if options.embeddings:
        batch = str(_embedding_batch(options))
        argv += ["--embeddings", "-b", batch, "-ub", batch]
    if pooling is not None:
        argv += ["--pooling", pooling]
    # Builds that do not know one of these ignore the variable; an unknown argument they would refuse.
    env = {
        "LLAMA_ARG_LOG_VERBOSITY": str(VERBOSITY[options.log_level]),
        "LLAMA_ARG_CORS_ORIGINS": "localhost",
        "LLAMA_ARG_UI": "0",
    }
    return (*argv, *options.extra_args), env


def _embedding_batch(options: LlamaCppLaunch) -> int:
    return min(options.context or EMBEDDING_BATCH, EMBEDDING_BATCH)


def _template_file(template: str) -> Path | None:
    """The file a chat template is in; None for a template that is given itself. Raises LaunchError for neither."""
    if "{" in template or template == "chatml":
        return None
    path = Path(template)
    if not path.is_file():
        # llama.cpp would take the text itself as the whole prompt and say nothing.
        raise LaunchError(f"there is no chat template file {template}")
    return path

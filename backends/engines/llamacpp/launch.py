"""How llama.cpp is started: the options, and the command lines of its two runtimes: `xllamacpp`, llama.cpp as a Python
wheel, started by `runner.py`; and any `llama-server` program. Facts are those of llama.cpp b11549.

Rules:
- `context` counts per slot here; llama.cpp's own number is the sum over all slots.
- What can be known to fail is refused before the start, in one line that names the file and what to do.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from backends.base import Launch, LaunchError
from backends.facts.launching import LaunchOptions, Text
from backends.facts.units import MODEL_NAME

BUILT_IN = "xllamacpp"
RUNNER = Path(__file__).with_name("runner.py")
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
    rerank: bool = Field(
        False,
        description="Whether the model, a reranking model, serves rerank.",
    )
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

    @model_validator(mode="after")
    def _does_one_thing(self) -> LlamaCppLaunch:
        if self.rerank and (self.embeddings or self.pooling is not None):
            raise ValueError("'rerank' goes with neither 'embeddings' nor 'pooling': it pools by rank")
        return self

    @property
    def public_name(self) -> str:
        """What clients call the model."""
        return self.name or self.model.stem


def launch_of(options: LlamaCppLaunch, host: str, port: int) -> Launch:
    """The command line. Raises LaunchError where it cannot work."""
    head = _model_head(options.model)
    for adapter in options.lora:
        _model_head(adapter, "LoRA adapter")
    pooling: str | None = options.pooling
    if options.rerank:
        pooling = "rank"
    elif options.embeddings and pooling is None and b".pooling_type" not in head:
        pooling = "mean"
    if options.runtime == BUILT_IN:
        argv, env = _runner_command(options, pooling, host, port)
    else:
        argv, env = _server_command(options, pooling, host, port)
    # After a failed assertion ggml would start a debugger on itself to print where it was.
    env = {"GGML_NO_BACKTRACE": "1", **env, **options.environment()}
    return Launch(argv, env, options.start_timeout, options.stop_timeout, key_env="LLAMA_API_KEY")


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
    if options.embeddings or options.rerank:
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
    argv += ["-np", str(options.parallel), "--metrics", "--slots"]
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
    if options.embeddings or options.rerank:
        batch = str(_embedding_batch(options))
        argv += ["--rerank" if options.rerank else "--embeddings", "-b", batch, "-ub", batch]
    if pooling is not None and not options.rerank:
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

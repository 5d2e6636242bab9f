"""How llama.cpp is started: its launch options, and the command lines of its two runtimes.

The runtimes are `xllamacpp`, llama.cpp as a Python wheel, started by `runner.py`, and any `llama-server` program. Facts
are those of llama.cpp b11549.

Rules:
- `context` is per slot; llama.cpp's own number is the sum over all slots.
- Foreseeable failures are reported before the start, in one line that names the file and what to do.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from backends.base import Launch, LaunchError
from backends.facts.launching import PULLED, GgufLaunch, Text, place
from backends.facts.units import Size
from backends.sizing.files import HEAD, stored, too_long
from backends.sizing.llama import UNIT, LlamaPlan, llama
from backends.sizing.model import ModelFacts
from backends.sizing.need import GIB, MIB, Need, Space

BUILT_IN = "xllamacpp"
RUNNER = Path(__file__).with_name("runner.py")
EMBEDDING_BATCH = 2048
"""Tokens computed in one step when the model serves embeddings, which is also the longest input that can be embedded.
llama.cpp's own default is 512; longer inputs fail with status 500."""
DRIVERS = (b"libcuda.so", b"libvulkan.so", b"libamdhip64.so", b"libze_loader.so")
"""The libraries that a build for GPUs is linked with."""
PROMPT_CACHE = 8 * GIB
"""llama.cpp's own limit of the prompts that it keeps."""
MIXED = "'prompt_cache' must be false, or left out, where requests choose LoRA adapters: it mixes up their prompts"
VERBOSITY = {"error": 1, "warning": 2, "info": 3, "debug": 5}
"""llama.cpp's numbers for log levels (its `--verbosity`)."""


class LlamaCppLaunch(GgufLaunch):
    """How to start llama.cpp's server."""

    runtime: Text = Field(
        BUILT_IN,
        description="`xllamacpp` (pip install 'llm-serving-gateway[llamacpp]'), or the path or name of a "
        "`llama-server` program of 2026 or later.",
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
        None, ge=0, le=9999, description="Layers of the model on the GPU. Left out, as many as fit."
    )
    chat_template: Text | None = Field(
        None,
        description="The chat template, if it is not the one in the model file: the path of a Jinja file, a Jinja "
        "template, or `chatml`.",
    )
    lora: tuple[Path, ...] = Field(
        (),
        description="LoRA adapters, GGUF files, applied at full strength; not to requests for models with `loras`.",
    )
    lora_on_request: tuple[Path, ...] = Field(
        (),
        description="LoRA adapters, GGUF files, applied to requests alone that ask for them. Those of the `loras` of "
        "models that are served here are added by themselves. With any, `prompt_cache` is off.",
    )
    embeddings: bool = Field(False, description="Whether the model serves embeddings in addition to chat.")
    rerank: bool = Field(
        False,
        description="Whether the model is a reranking model and serves rerank.",
    )
    pooling: Literal["mean", "cls", "last"] | None = Field(
        None,
        description="How the embeddings of tokens are combined. Left out, as the model file says, or else `mean`.",
    )
    prompt_cache: Size | Literal[False] | None = Field(
        None,
        description="Memory (RAM) for prompts of earlier requests, which are not computed again when they come back to "
        "another slot; `false` for none. It fills while the engine runs. Left out, llama.cpp's own limit: 8 GiB. With "
        "LoRA adapters that requests choose there is none: llama.cpp would mix up their prompts.",
    )
    extra_args: tuple[str, ...] = Field(
        (),
        description="More settings. For `xllamacpp`, `--name value` or `--name=value` with the names of its "
        "CommonParams, such as `--n-batch 512` or `--sampling.temp=0.5`; for a program, its own arguments.",
    )
    log_level: Literal["error", "warning", "info", "debug"] = Field(
        "error",
        description="The level from which llama.cpp's messages are logged. It warns about ordinary events, such as a "
        "client that has left or a repeated prompt.",
    )

    @model_validator(mode="after")
    def _does_one_thing(self) -> LlamaCppLaunch:
        if self.rerank and (self.embeddings or self.pooling is not None):
            raise ValueError("'rerank' goes with neither 'embeddings' nor 'pooling': it pools by rank")
        if self.lora_on_request and self.prompt_cache:
            raise ValueError(MIXED)
        return self

    @property
    def kept(self) -> int | None:
        """Bytes of prompts that are kept for all slots; None for llama.cpp's own limit."""
        if self.lora_on_request or self.prompt_cache is False:
            return 0
        return self.prompt_cache

    def with_adapters(self, paths: Sequence[str]) -> LlamaCppLaunch:
        more = tuple(dict.fromkeys(map(Path, paths)))
        known = (*self.lora, *self.lora_on_request)
        added = (*self.lora_on_request, *(path for path in more if path not in known))
        return self.model_copy(update={"lora_on_request": added}) if paths else self

    def slots(self) -> int | None:
        return self.parallel

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        kept = PROMPT_CACHE if self.kept is None else self.kept
        plan = LlamaPlan(
            tokens=self.context,
            slots=self.parallel,
            batch=self._embedding_batch if self.embeddings or self.rerank else UNIT,
            keys=self._extra("cache-type-k", "-ctk"),
            values=self._extra("cache-type-v", "-ctv"),
            gpu_layers=self.gpu_layers,
            kept=kept,
            adapters=sum(map(stored, (*self.lora, *self.lora_on_request))),
        )
        blind = self.gpus == () or (self.runtime == BUILT_IN and not _built_for_gpus())
        return llama(facts, plan, Space(ram=space.ram) if blind else space)

    def _extra(self, name: str, short: str) -> str | None:
        """Return the value of a setting among `extra_args`."""
        words = [part for word in self.extra_args for part in word.split("=", 1)]
        spelled = (f"--{name}", f"--{name.replace('-', '_')}", short)
        return next((value for word, value in pairwise(words) if word in spelled), None)

    def notes(self) -> tuple[str, ...]:
        return too_long("context", self.context, self.model)

    def launch(self, host: str, port: int) -> Launch:
        model = self.located()
        head = b"" if str(model) == PULLED else _model_head(model)
        for adapter in (*self.lora, *self.lora_on_request):
            _model_head(adapter, "LoRA adapter")
        pooling: str | None = self.pooling
        if self.rerank:
            pooling = "rank"
        elif self.embeddings and pooling is None and b".pooling_type" not in head:
            pooling = "mean"
        # After a failed assertion ggml would start a debugger on itself to print a backtrace.
        env = {"GGML_NO_BACKTRACE": "1"}
        if self.runtime == BUILT_IN:
            argv = self._runner_command(pooling, host, port)
        else:
            argv = self._server_command(pooling, host, port)
            # Builds that do not know one of these ignore the variable, and would refuse an unknown argument.
            env["LLAMA_ARG_LOG_VERBOSITY"] = str(VERBOSITY[self.log_level])
            env["LLAMA_ARG_CORS_ORIGINS"] = "localhost"
            env["LLAMA_ARG_UI"] = "0"
        return self.process([*argv, *self.extra_args], env, key_env="LLAMA_API_KEY")

    def _runner_command(self, pooling: str | None, host: str, port: int) -> list[str]:
        """Return the command line of `runner.py`, which `extra_args` follow."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise LaunchError(
                "the Python package xllamacpp is not installed: pip install 'llm-serving-gateway[llamacpp]', "
                "or name a llama-server program with 'runtime'"
            )
        argv = [sys.executable, "-P", str(RUNNER), f"--model={self.located()}", f"--name={self.public_name}"]
        argv += ["--host", host, "--port", str(port), "--parallel", str(self.parallel)]
        argv += ["--verbosity", str(VERBOSITY[self.log_level])]
        if self.context is not None:
            argv += ["--context", str(self.context * self.parallel)]
        if self.threads is not None:
            argv += ["--threads", str(self.threads)]
        if self.gpu_layers is not None:
            argv += ["--gpu-layers", str(self.gpu_layers)]
        if self.kept is not None:
            argv += ["--prompt-cache", str(self.kept // MIB)]
        if self.chat_template is not None:
            file = _template_file(self.chat_template)
            argv += [f"--chat-template-file={file}"] if file else [f"--chat-template={self.chat_template}"]
        argv += [f"--lora={adapter.absolute()}" for adapter in self.lora]
        argv += [f"--lora-on-request={adapter.absolute()}" for adapter in self.lora_on_request]
        if self.embeddings or self.rerank:
            argv += ["--embeddings", "--ubatch", str(self._embedding_batch)]
        if pooling is not None:
            argv += ["--pooling", pooling]
        return [*argv, "--"]

    def _server_command(self, pooling: str | None, host: str, port: int) -> list[str]:
        """Return the command line of a `llama-server` program, which `extra_args` follow."""
        program = shutil.which(self.runtime)
        if program is None:
            raise LaunchError(
                f"there is no program {self.runtime}: install llama-server, or leave 'runtime' out to use xllamacpp"
            )
        argv = [
            program,
            "-m",
            str(self.located()),
            "-a",
            self.public_name,
            "--host",
            host,
            "--port",
            str(port),
        ]
        argv += ["-np", str(self.parallel), "--metrics", "--slots"]
        if self.context is not None:
            argv += ["-c", str(self.context * self.parallel)]
        if self.threads is not None:
            argv += ["-t", str(self.threads)]
        if self.gpu_layers is not None:
            argv += ["-ngl", str(self.gpu_layers)]
        if self.kept is not None:
            argv += ["--cache-ram", str(self.kept // MIB)]
        if self.chat_template is not None:
            file = _template_file(self.chat_template)
            argv += ["--chat-template-file", str(file)] if file else ["--chat-template", self.chat_template]
        for adapter in self.lora:
            argv += ["--lora", str(adapter.absolute())]
        for adapter in self.lora_on_request:
            argv += ["--lora-scaled", f"{_separable(adapter.absolute())}:0"]
        if self.embeddings or self.rerank:
            batch = str(self._embedding_batch)
            argv += ["--rerank" if self.rerank else "--embeddings", "-b", batch, "-ub", batch]
        if pooling is not None and not self.rerank:
            argv += ["--pooling", pooling]
        return argv

    @property
    def _embedding_batch(self) -> int:
        """Tokens computed in one step where the model serves embeddings."""
        return min(self.context or EMBEDDING_BATCH, EMBEDDING_BATCH)


@functools.cache
def _built_for_gpus() -> bool:
    """Return whether the installed package computes on GPUs: its usual wheel for Linux does not."""
    if sys.platform == "darwin":
        return True
    found = importlib.util.find_spec(BUILT_IN)
    folders = () if found is None else found.submodule_search_locations or ()
    for library in (path for folder in folders for path in Path(folder).glob("*.so")):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if any(data.find(driver) >= 0 for driver in DRIVERS):
                return True
    return False


def _model_head(path: Path, what: str = "model") -> bytes:
    """Return the first bytes of a GGUF file. Raise LaunchError if it is not one."""
    where = place(path)
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


def _separable(adapter: Path) -> Path:
    """Return the path of an adapter. Raise LaunchError where a `llama-server` would read several values from it."""
    if {",", ":", '"'} & set(str(adapter)):
        raise LaunchError(
            f'a llama-server cannot be given the LoRA adapter {place(adapter)}: its path has , : or "'
        )
    return adapter


def _template_file(template: str) -> Path | None:
    """Return the file of a chat template; None if the option is a template itself. Raise LaunchError for neither."""
    if "{" in template or template == "chatml":
        return None
    path = Path(template)
    if not path.is_file():
        # llama.cpp would silently use the text itself as the whole prompt.
        raise LaunchError(f"there is no chat template file {place(path)}")
    return path

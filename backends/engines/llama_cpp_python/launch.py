"""How to start llama-cpp-python's server: the options of a backend's `launch` section, and their command line.

Facts are those of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from backends.base import Launch, LaunchError
from backends.facts.launching import PULLED, Count, GgufLaunch, Text, arguments, place, program
from backends.sizing.files import stored, too_long
from backends.sizing.llama import UNIT, LlamaPlan, llama
from backends.sizing.model import ModelFacts
from backends.sizing.need import GIB, MIB, Need, Space

COMMAND = ("python", "-m", "llama_cpp.server")
INSTALL = "install it with `pip install 'llama-cpp-python[server]'`"
CONTEXT = 2048
"""Its own context length."""
KEPT = 2 * GIB
"""The most that its cache of prompts takes (`cache_size`)."""
PROGRAM = 120 * MIB
"""The server itself: Python, NumPy and the libraries it loads; an estimate."""


class LlamaCppPythonLaunch(GgufLaunch):
    """How to start llama-cpp-python's server."""

    command: tuple[Text, ...] | None = Field(
        None,
        min_length=1,
        description="The program and its first arguments, where it is not `python -m llama_cpp.server`: a path into "
        "another virtual environment, or a wrapper.",
    )
    max_model_len: Count | None = Field(
        None, description="Tokens a request may use, prompt and answer together. Its own default is 2048."
    )
    max_batched_tokens: Count | None = Field(None, description="Tokens of a prompt computed in one step.")
    threads: Count | None = Field(None, description="CPU threads. Left out, half of the processors.")
    gpu_layers: int | None = Field(
        None, ge=-1, le=10_000, description="Layers of the model on the GPU; `-1` for all. Left out, none."
    )
    flash_attention: bool | None = Field(None, description="Whether llama.cpp's flash attention is used.")
    chat_format: Text | None = Field(
        None,
        description="The engine's name of a format for messages and tools, such as `chatml-function-calling`. Left "
        "out, as the model file says.",
    )
    lora: Path | None = Field(None, description="A LoRA adapter, a GGUF file, applied at full strength.")
    embeddings: bool = Field(False, description="Whether the model serves embeddings.")
    prompt_lookup: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Speculative decoding by prompt lookup: the tokens to guess in one step.",
    )
    cache: bool = Field(
        False,
        description="Whether computed prompts are kept in memory and reused by requests with the same beginning.",
    )
    extra_args: tuple[str, ...] = Field((), description="More arguments for the program, passed unchanged.")

    def longest(self) -> int | None:
        return self.max_model_len

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        # Left out, no layer is on a GPU; -1 stands for all.
        layers = None if self.gpu_layers == -1 else self.gpu_layers or 0
        batch = self.max_batched_tokens or UNIT
        plan = LlamaPlan(
            tokens=self.max_model_len or CONTEXT,
            slots=1,
            batch=batch,
            gpu_layers=layers,
            # It keeps the logits of one step beside llama.cpp's own.
            program=PROGRAM + 4 * batch * facts.vocabulary,
            kept=KEPT if self.cache else 0,
            adapters=stored(self.lora),
        )
        return llama(facts, plan, space if self.gpus is None or self.gpus else Space(ram=space.ram))

    def notes(self) -> tuple[str, ...]:
        return too_long("max_model_len", self.max_model_len, self.model)

    def launch(self, host: str, port: int) -> Launch:
        model = self.located()
        for path in (None if str(model) == PULLED else model, self.lora):
            if self.command is None and path is not None and not path.is_file():
                raise LaunchError(
                    f"there is no file {place(path)}: put a GGUF file there or correct the path"
                )
        argv = [*program(self.command or COMMAND, INSTALL), "--model", str(model)]
        argv += ["--model_alias", self.public_name, "--host", host, "--port", str(port)]
        argv += ["--interrupt_requests", "false", "--verbose", "false", *arguments(self, FLAGS)]
        for field, flag in SWITCHES.items():
            argv += [flag, "true"] if getattr(self, field) else []
        if self.prompt_lookup is not None:
            argv += ["--draft_model", "prompt-lookup-decoding"]
        # If these two variables were set otherwise, they would win over the arguments.
        env = {"HOST": host, "PORT": str(port)}
        return self.process([*argv, *self.extra_args], env, key_env="API_KEY")


FLAGS: Mapping[str, str] = {
    "max_model_len": "--n_ctx",
    "max_batched_tokens": "--n_batch",
    "threads": "--n_threads",
    "gpu_layers": "--n_gpu_layers",
    "chat_format": "--chat_format",
    "lora": "--lora_path",
    "prompt_lookup": "--draft_model_num_pred_tokens",
}
SWITCHES: Mapping[str, str] = {
    "flash_attention": "--flash_attn",
    "embeddings": "--embedding",
    "cache": "--cache",
}
"""Flags that take `true` or `false`."""

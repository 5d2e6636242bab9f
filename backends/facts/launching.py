"""The launch options that engines share, and how options become a command line.

Rules:
- An option that is a plain flag of the engine is a typed field and a row in the engine's table of flags; only the table
  knows how the flag is spelled.
- A field that is None, False or empty adds no argument: the engine's own default applies.
- A program that is not installed is reported before the start, in one line that says how to install it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from backends.base import Launch, LaunchError
from backends.facts.residing import Residing
from backends.facts.units import MODEL_NAME, Duration, Share, expected
from backends.sizing.files import too_long
from backends.sizing.hubs import has_prefix, local
from backends.sizing.model import ModelFacts
from backends.sizing.need import Need, Space
from backends.sizing.serving import BATCH, ServingPlan, serving

Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
LoraName = Annotated[str, StringConstraints(pattern=f"^{MODEL_NAME}$")]
PULLED = "{model}"
"""Stands for the model's path in a command line that fetches it first."""
Plain = str | int | float | bool
"""The type of a single argument."""


def _gpus(value: object) -> tuple[int, ...] | str:
    """Return numbers of GPUs, or "auto". Raise for anything else."""
    if value == "auto":
        return "auto"
    if isinstance(value, list | tuple) and all(type(each) is int and 0 <= each <= 1023 for each in value):
        return tuple(value)
    raise expected("a list of GPUs by number such as [0, 1], or auto")


Gpus = Annotated[
    tuple[int, ...] | Literal["auto"],
    PlainValidator(_gpus),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1023}},
                {"const": "auto"},
            ]
        }
    ),
]
"""The numbers of GPUs, as NVIDIA's driver counts them, or `auto`."""


class ProcessLaunch(Residing):
    """The launch options of every engine: its GPUs, its environment, and how long it may take to start and stop."""

    gpus: Gpus | None = Field(
        None,
        description="The GPUs the engine sees, by number; `[]` for none; `auto`: the emptiest on which it fits, as few "
        "as it needs. Left out, those the gateway sees.",
    )
    env: dict[str, str] = Field(
        {}, description="Environment variables of the process, in addition to the few it inherits."
    )
    start_timeout: Duration = Field(300.0, description="How long it may take until the engine is ready.")
    stop_timeout: Duration = Field(
        10.0, description="How long the engine may take to end after SIGTERM; then it is killed."
    )

    def process(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, key_env: str | None = None
    ) -> Launch:
        """Return the launch of this command line.

        `env` are variables that the engine needs; those of the option `env` win. `key_env` is `Launch.key_env`.
        """
        gpus = self.gpus
        devices: dict[str, str] = {}
        if isinstance(gpus, tuple):
            devices["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        if devices and gpus:
            # Otherwise CUDA counts the fastest first, and NVML, which the gateway asks, by the bus.
            devices["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment = {**(env or {}), **devices, **self.env}
        if any(PULLED in word for word in argv):
            fetching = (sys.executable, "-m", "gateway", "pull", str(getattr(self, "model", "")), "--exec")
            argv = (*fetching, *argv)
        return Launch(tuple(argv), environment, self.start_timeout, self.stop_timeout, key_env)


class GgufLaunch(ProcessLaunch):
    """The launch options of engines that serve one model from a GGUF file."""

    model: Path = Field(
        description="The model, a GGUF file. A relative path starts at the working directory. Or one of a hub that was "
        "fetched: `hf:ORG/NAME:Q4_K_M`, `ms:ORG/NAME:Q4_K_M`."
    )
    pull: bool | None = Field(
        None,
        description="Whether a model named with its hub (`hf:...`, `ms:...`) that is not on this machine is fetched at "
        "the start, which `start_timeout` must allow for. Left out, what `defaults.pull` says.",
    )
    name: str | None = Field(
        None,
        pattern=f"^{MODEL_NAME}$",
        description="The model's public name. Left out, the file's name without `.gguf`.",
    )

    @model_validator(mode="after")
    def _public_name_is_one(self) -> GgufLaunch:
        if not re.fullmatch(MODEL_NAME, self.public_name):
            raise ValueError("the file's name is no model name: give one with 'name'")
        return self

    @property
    def public_name(self) -> str:
        """The name by which clients ask for the model."""
        return self.name or self.model.stem

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name."""
        return (self.public_name,)

    def files(self) -> Path | None:
        return local(str(self.model), self.env)

    def located(self) -> Path:
        """Return the path of the model's file, or what stands for it until it was fetched. Raise LaunchError."""
        return Path(_located(str(self.model), self.env, self.pull))


class ServerLaunch(ProcessLaunch):
    """The launch options of engines that are a program of their own and serve one model."""

    model: Text = Field(
        description="The model: a folder, or the name of a repository on the Hugging Face hub, which the engine "
        "fetches itself. Or one of a hub that was fetched: `hf:ORG/NAME`, `ms:ORG/NAME`."
    )
    pull: bool | None = Field(
        None,
        description="Whether a model named with its hub (`hf:...`, `ms:...`) that is not on this machine is fetched at "
        "the start, which `start_timeout` must allow for. Left out, what `defaults.pull` says.",
    )
    name: str | None = Field(
        None,
        pattern=f"^{MODEL_NAME}$",
        description="The model's public name. Left out, `model` as it is, or the folder's name.",
    )
    command: tuple[Text, ...] | None = Field(
        None,
        min_length=1,
        description="The program and its first arguments, where it is not the engine's usual one: a path into another "
        "virtual environment, or a wrapper.",
    )
    extra_args: tuple[str, ...] = Field((), description="More arguments for the program, passed unchanged.")
    start_timeout: Duration = Field(
        1800.0, description="How long it may take until the engine is ready, a download included."
    )
    stop_timeout: Duration = Field(
        30.0, description="How long the engine may take to end after SIGTERM; then it is killed."
    )

    @model_validator(mode="after")
    def _public_name_is_one(self) -> ServerLaunch:
        if not re.fullmatch(MODEL_NAME, self.public_name):
            raise ValueError("'model' is no model name itself: give one with 'name'")
        return self

    @property
    def public_name(self) -> str:
        """The name by which clients ask for the model."""
        if self.name is not None:
            return self.name
        if has_prefix(self.model):
            return self.model.split(":")[1]
        path = Path(self.model)
        return path.name if path.is_absolute() or path.is_dir() or self.model.startswith(".") else self.model

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name."""
        return (self.public_name,)

    def files(self) -> Path | None:
        return local(self.model, self.env)

    def located(self) -> str:
        """Return the model as the engine is told it: its folder, if the hub is named too. Raise LaunchError.

        The path of a folder is absolute, as the engine works in another folder than the gateway.
        """
        found = _located(self.model, self.env, self.pull)
        return str(Path(found).absolute()) if Path(found).is_dir() else found

    def space(self, space: Space) -> Space:
        """Return what the engine sees of the machine: no GPUs where `gpus` names none."""
        return space if self.gpus is None or self.gpus else Space(ram=space.ram)


class GpuServerLaunch(ServerLaunch):
    """The launch options of engines that serve one model on GPUs, many requests at once."""

    tensor_parallel: Count | None = Field(
        None, description="GPUs that share each layer of the model. Left out, one."
    )
    gpu_memory: Share | None = Field(
        None,
        description="How much of each GPU's memory the engine takes for the model and its KV cache together.",
    )
    max_model_len: Count | None = Field(
        None,
        description="Tokens one request may use, prompt and answer together. Left out, the model's own limit.",
    )
    max_num_seqs: Count | None = Field(None, description="Requests that are computed at the same time.")
    max_batched_tokens: Count | None = Field(
        None, description="Tokens that are computed in one step, of all requests together."
    )
    dtype: Text | None = Field(
        None, description="The type of the weights, such as `bfloat16`. Left out, as the model says."
    )
    quantization: Text | None = Field(
        None,
        description="How the weights are quantized, such as `fp8` or `awq`. Left out, as the model says.",
    )
    kv_cache_dtype: Text | None = Field(None, description="The type of the KV cache, such as `fp8`.")
    prefix_caching: bool | None = Field(
        None,
        description="Whether prompts with the same beginning share their KV cache. Left out, the engine's default.",
    )
    reasoning_parser: Text | None = Field(
        None,
        description="The engine's parser for this model's reasoning, which is then separated from the answer.",
    )
    tool_parser: Text | None = Field(
        None,
        description="The engine's parser for this model's tool calls. Without it there are no tool calls.",
    )
    chat_template: Text | None = Field(None, description="The chat template, if it is not the model's own.")
    trust_remote_code: bool = Field(
        False, description="Whether Python code that comes with the model may run in the engine."
    )

    gpu_share: ClassVar[float] = 0.9
    """How much of each GPU's memory the engine takes where `gpu_memory` is left out."""
    gpu_share_of_free: ClassVar[bool] = False
    """Whether that is a share of what the model leaves free."""

    def need(self, facts: ModelFacts, space: Space) -> Need | None:
        return serving(facts, self.plan(), self.space(space))

    def plan(self) -> ServingPlan:
        """Return how the engine is started, as far as its memory depends on it."""
        each_layer = self.tensor_parallel or 1
        return ServingPlan(
            tokens=self.max_model_len,
            batch=self.max_batched_tokens or BATCH,
            kv_type=self.kv_cache_dtype,
            dtype=self.dtype,
            quantization=self.quantization,
            split=each_layer * (getattr(self, "pipeline_parallel", None) or 1),
            heads_split=each_layer,
            copies=getattr(self, "data_parallel", None) or 1,
            share=self.gpu_share if self.gpu_memory is None else self.gpu_memory,
            of_free=self.gpu_share_of_free,
        )

    def slots(self) -> int | None:
        return self.max_num_seqs

    def longest(self) -> int | None:
        return self.max_model_len

    def notes(self) -> tuple[str, ...]:
        return too_long("max_model_len", self.max_model_len, Path(self.model))

    def check_paths(self, *others: str) -> None:
        """Raise LaunchError if the model, or one of the others, is a path that does not exist.

        What is not a path may be the name of a model on a hub. With `command` nothing is checked: the engine may run in
        a container with a file system of its own.
        """
        if self.command is not None:
            return
        for path in (self.model, *others):
            if (Path(path).is_absolute() or path.startswith(".")) and not Path(path).exists():
                raise LaunchError(f"there is no {place(path)}: correct the path")


def _located(model: str, env: Mapping[str, str], pull: bool | None) -> str:
    """Return where a model is that may be named with its hub. Raise LaunchError where it is not here."""
    if not has_prefix(model):
        return model
    found = local(model, env)
    if found is not None:
        return str(found)
    if pull:
        return PULLED
    raise LaunchError(
        f"{model} is not on this machine: fetch it with `gateway pull {model}`, or set 'pull: true'"
    )


def place(path: Path | str) -> str:
    """Return a path as messages name it: a relative one with the folder it starts at."""
    return f"{path}{looked_in(path)}"


def looked_in(path: Path | str) -> str:
    """Return the end of a message about a path: the folder that a relative one starts at."""
    return "" if Path(path).is_absolute() else f" (in {Path.cwd()})"


def program(command: Sequence[str], install: str) -> tuple[str, ...]:
    """Return the command with the path of its program. Raise LaunchError with the advice `install` if it is missing."""
    found = shutil.which(command[0])
    if found is None:
        raise LaunchError(f"there is no program {command[0]}: {install}, or name one with 'command'")
    return (found, *command[1:])


def arguments(options: BaseModel, flags: Mapping[str, str | tuple[str, str]]) -> list[str]:
    """Return the arguments for the options in `flags`, which maps a field to its flag or to those for true and false.

    A bool with one flag is that flag alone, if true. A map is one argument of JSON; under a flag that ends with `=` it
    is one `name=value` argument for each item. The items of a tuple follow the flag one by one.
    """
    found: list[str] = []
    for field, flag in flags.items():
        found += _argument(flag, getattr(options, field))
    return found


def _argument(flag: str | tuple[str, str], value: Any) -> list[str]:
    """Return the arguments for one option."""
    if value is None or value in ((), {}):
        return []
    if isinstance(flag, tuple):
        return [flag[0] if value else flag[1]]
    if isinstance(value, bool):
        return [flag] if value else []
    if flag.endswith("="):
        return [flag[:-1], *(f"{name}={item}" for name, item in value.items())]
    if isinstance(value, Mapping):
        return [flag, msgspec.json.encode(value).decode()]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]

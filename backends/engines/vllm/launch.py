"""How to start vLLM's server, and why it died.

Facts are those of vLLM 0.32 (run) and 0.33 (source).

Rules:
- `--max-num-queued-reqs` counts the requests that run and those that wait together. `max_queue` are those that wait, so
  those that may run are added; without their number it cannot be said.
- The process that serves HTTP ends with status 0 when its engine has died.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, JsonValue, model_validator

from backends.base import Launch
from backends.facts import logs
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Text, arguments, program
from backends.sizing.need import GIB
from backends.sizing.serving import ServingPlan

COMMAND = ("vllm", "serve")
INSTALL = "install it with `pip install vllm`"
CPU_CACHE = 4 * GIB
"""The KV cache on CPUs where `VLLM_CPU_KVCACHE_SPACE`, in GiB, is not set."""


class VLLMLaunch(GpuServerLaunch):
    """How to start vLLM's server."""

    pipeline_parallel: Count | None = Field(
        None, description="Groups of GPUs that each hold a part of the model's layers. Left out, one."
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, each on GPUs of its own. Left out, one."
    )
    max_queue: Count | None = Field(
        None,
        description="Requests that may wait in vLLM; more are refused with 503. Needs `max_num_seqs`. Left out, any "
        "number.",
    )
    chunked_prefill: bool | None = Field(
        None,
        description="Whether long prompts are computed in pieces, between the tokens of other requests. Left out, "
        "`true`.",
    )
    speculative: dict[str, JsonValue] = Field(
        {},
        description="Speculative decoding, as vLLM's `--speculative-config` has it, such as "
        "`{method: ngram, num_speculative_tokens: 4}`.",
    )
    lora: dict[LoraName, Text] = Field(
        {},
        description="LoRA adapters: the model name under which clients ask for one, and its folder or hub name.",
    )
    lora_loading: bool = Field(
        False,
        description="Whether adapters may be loaded and unloaded while it runs (`load_lora`, `unload_lora`).",
    )
    max_loras: Count | None = Field(None, description="Adapters that may be used in one step. Left out, one.")
    max_lora_rank: Count | None = Field(None, description="The largest rank of an adapter. Left out, 16.")
    sleep_mode: bool = Field(
        False,
        description="Whether it can be put to sleep, which frees its GPU memory, and woken (`sleep`, `wake`).",
    )

    gpu_share: ClassVar[float] = 0.92

    @model_validator(mode="after")
    def _a_queue_stands_behind_those_that_run(self) -> VLLMLaunch:
        if self.max_queue is not None and self.max_num_seqs is None:
            raise ValueError(
                "'max_queue' needs 'max_num_seqs': vLLM counts the requests that run and wait together"
            )
        return self

    def plan(self) -> ServingPlan:
        told = self.env.get("VLLM_CPU_KVCACHE_SPACE", "")
        cache = int(told) * GIB if told.isdecimal() and int(told) else CPU_CACHE
        return dataclasses.replace(super().plan(), cpu_cache=cache)

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name and those of its adapters."""
        return (self.public_name, *self.lora)

    def slots(self) -> int | None:
        return None if self.max_num_seqs is None else self.max_num_seqs * (self.data_parallel or 1)

    def launch(self, host: str, port: int) -> Launch:
        command = self.command or COMMAND
        argv = [*program(command, INSTALL)]
        self.check_paths(*self.lora.values())
        # `vllm serve` takes the model as its first argument; the module behind it takes it only by its flag.
        model = self.located()
        argv += [model] if "serve" in command else ["--model", model]
        argv += ["--served-model-name", self.public_name, "--host", host, "--port", str(port)]
        argv += ["--disable-uvicorn-access-log", "--enable-prompt-tokens-details"]
        argv += arguments(self, FLAGS)
        if self.max_queue is not None and self.max_num_seqs is not None:
            accepted = self.max_queue + self.max_num_seqs * (self.data_parallel or 1)
            argv += ["--max-num-queued-reqs", str(accepted)]
        if self.tool_parser is not None:
            argv.append("--enable-auto-tool-choice")
        if self.lora or self.lora_loading:
            argv.append("--enable-lora")
        env = {
            **({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if self.lora_loading else {}),
            **({"VLLM_SERVER_DEV_MODE": "1"} if self.sleep_mode else {}),
        }
        return self.process([*argv, *self.extra_args], env, key_env="VLLM_API_KEY")


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--tensor-parallel-size",
    "pipeline_parallel": "--pipeline-parallel-size",
    "data_parallel": "--data-parallel-size",
    "gpu_memory": "--gpu-memory-utilization",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_batched_tokens": "--max-num-batched-tokens",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "prefix_caching": ("--enable-prefix-caching", "--no-enable-prefix-caching"),
    "chunked_prefill": ("--enable-chunked-prefill", "--no-enable-chunked-prefill"),
    "speculative": "--speculative-config",
    "reasoning_parser": "--reasoning-parser",
    "tool_parser": "--tool-call-parser",
    "chat_template": "--chat-template",
    "trust_remote_code": "--trust-remote-code",
    "sleep_mode": "--enable-sleep-mode",
    "lora": "--lora-modules=",
    "max_loras": "--max-loras",
    "max_lora_rank": "--max-lora-rank",
}

CRASHES: logs.Crashes = (
    # The system's killer of processes that take too much memory ends one with signal 9, and nobody says why.
    (
        re.compile(r"\b[Pp]roc(?:ess)? \S+ died unexpectedly \(exit code: -9\)"),
        "something killed one of its processes, as the system does when memory runs out",
    ),
    (
        re.compile(r"No available memory for the cache blocks"),
        "no memory is left for the KV cache: give it more with 'gpu_memory'",
    ),
    (
        re.compile(
            r"max seq len \((\d+)\).*larger than the available KV cache.*maximum model length is (\d+)"
        ),
        "the KV cache is too small for one request of {0} tokens: raise 'gpu_memory', or 'max_model_len' at most {1}",
    ),
    (
        re.compile(r"max seq len \((\d+)\).*larger than the available KV cache"),
        "the KV cache is too small for one request of {0} tokens: lower 'max_model_len' or raise 'gpu_memory'",
    ),
    (
        re.compile(r"Free memory on device.* \(([\d.]+/[\d.]+ GiB)\) on startup is less than"),
        "only {0} of the GPU's memory is free: lower 'gpu_memory', or end what else uses the GPU",
    ),
    (
        re.compile(r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\S*?(\d+)[^)]*\)"),
        "'max_model_len' {0} is more than the {1} tokens the model can",
    ),
    (
        re.compile(r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)"),
        "it needs {0} GPUs and finds {1}",
    ),
    (
        re.compile(r"LoRA rank (\d+) is greater than max_lora_rank"),
        "an adapter has rank {0}: raise 'max_lora_rank'",
    ),
    (re.compile(r"(invalid (?:tool call|reasoning) parser: \S+)"), "{0}"),
)

LAST: logs.Crashes = (
    (
        re.compile(r"\b([Pp]roc(?:ess)? \S+ died unexpectedly(?: \(exit code: -?\d+\))?)"),
        "{0}, and did not say why",
    ),
    (re.compile(r"([Ee]ngine core exited unexpectedly)"), "{0}, and did not say why"),
)
"""What is known where nothing in the log is a reason."""

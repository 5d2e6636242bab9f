"""vLLM: its OpenAI-compatible server, attached to by URL or launched as a child process.

Facts are those of vLLM 0.33, with the older names of what was renamed.

Rules:
- Bodies pass unchanged both ways. A LoRA adapter is a model of its own, in requests and in lists.
- The server listens only once the model is loaded; before that, connections are refused. `/health` answers 503 once the
  engine behind it has died for good.
- The finish reason `abort` means that the server dropped the request, because it was put to sleep or an operator
  aborted the request: a failure. `repetition` is an end that the client asked for with vLLM's own parameters, so it
  passes.
- `/sleep` and `/wake_up` exist only in development mode, and adapters can be loaded only where that was allowed; a
  launch enables both if its options say so. Clients must reach such a server only through the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec
from pydantic import Field, JsonValue

from backends.base import (
    Action,
    Call,
    Health,
    Launch,
    LaunchOptions,
    Operation,
    Reading,
    Signal,
    Signals,
    Status,
)
from backends.dialect.openai import OpenAICompatible
from backends.facts import logs
from backends.facts.actions import checked_arguments
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Text, arguments, program
from backends.facts.signals import Metric, Table, from_metrics, reading, samples

COMMAND = ("vllm", "serve")
INSTALL = "install it with `pip install vllm`"


class VLLMLaunch(GpuServerLaunch):
    """How to start vLLM's server."""

    pipeline_parallel: Count | None = Field(
        None, description="Groups of GPUs that each hold a part of the model's layers. Left out, one."
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, each on GPUs of its own. Left out, one."
    )
    max_queue: Count | None = Field(
        None, description="Requests that may wait in vLLM; more are refused with 503. Left out, any number."
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

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name and those of its adapters."""
        return (self.public_name, *self.lora)

    def launch(self, host: str, port: int) -> Launch:
        command = self.command or COMMAND
        argv = [*program(command, INSTALL)]
        self.check_paths(*self.lora.values())
        # `vllm serve` takes the model as its first argument; the module behind it takes it only by its flag.
        argv += [self.model] if "serve" in command else ["--model", self.model]
        argv += ["--served-model-name", self.public_name, "--host", host, "--port", str(port)]
        argv += ["--disable-uvicorn-access-log", "--enable-prompt-tokens-details"]
        argv += arguments(self, FLAGS)
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
    "max_queue": "--max-num-queued-reqs",
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

TABLE: Table = {
    Signal.RUNNING: (Metric("vllm:num_requests_running", "all"),),
    Signal.WAITING: (Metric("vllm:num_requests_waiting", "all"),),
    Signal.KV_USE: (
        Metric("vllm:kv_cache_usage_perc", "since 0.10", combine=fmean),
        Metric("vllm:gpu_cache_usage_perc", "before", combine=fmean),
    ),
    Signal.PREFIX_HITS: (
        Metric("vllm:prefix_cache_hits_total", "since 0.10", per="vllm:prefix_cache_queries_total"),
        Metric("vllm:gpu_prefix_cache_hits_total", "0.8, 0.9", per="vllm:gpu_prefix_cache_queries_total"),
    ),
    Signal.ASLEEP: (
        Metric(
            "vllm:engine_sleep_state",
            "since 0.11, one sample for each state",
            {"sleep_state": "awake"},
            combine=lambda awake: float(not all(awake)),
        ),
    ),
}

LORAS = "vllm:lora_requests_info"
"""The metric whose labels name the adapters in use. Its value is a time in seconds since 1970; the latest counts."""


class VLLM(OpenAICompatible):
    """vLLM's server."""

    name: ClassVar[str] = "vllm"
    checked: ClassVar[str] = "vLLM 0.33.0 (source), 0.32.0 on CPU (run)"
    launch_options: ClassVar[type[LaunchOptions] | None] = VLLMLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(Operation) - {
        Operation.INFILL,
        Operation.SPEECH,
        Operation.IMAGES,
    }
    actions: ClassVar[frozenset[Action]] = frozenset(
        {Action.LOAD_LORA, Action.UNLOAD_LORA, Action.SLEEP, Action.WAKE}
    )

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        return Health.READY if status == 200 else Health.DOWN

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        (page,) = answers
        return {**from_metrics(page, TABLE), Signal.LORAS: _loras(page)}

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `load_lora` takes `name` and `path`, `unload_lora` takes `name`. `sleep` takes `level`: 1 keeps the weights in
        main memory, 2 drops them. `wake` takes `tags`, a list of `weights` and `kv_cache`, to restore only one of them.
        """
        match action:
            case Action.LOAD_LORA:
                given = checked_arguments(action, arguments, {"name": str, "path": str})
                body = {"lora_name": given["name"], "lora_path": given["path"]}
                return Call("/v1/load_lora_adapter", msgspec.json.encode(body))
            case Action.UNLOAD_LORA:
                given = checked_arguments(action, arguments, {"name": str})
                return Call("/v1/unload_lora_adapter", msgspec.json.encode({"lora_name": given["name"]}))
            case Action.SLEEP:
                return Call(_with_query("/sleep", checked_arguments(action, arguments, {}, {"level": int})))
            case Action.WAKE:
                return Call(_with_query("/wake_up", checked_arguments(action, arguments, {}, {"tags": list})))
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


def _with_query(path: str, given: Mapping[str, Any]) -> str:
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _loras(page: bytes | None) -> Reading:
    """Return the adapters in use."""
    text = "" if page is None else page.decode(errors="replace")
    if LORAS not in text:
        return Reading(Status.MISSING, source=f"not on its metrics page without --enable-lora: {LORAS}")
    # Until the first request for an adapter the metric is described on the page, but has no sample.
    labels, _ = max(samples(text, LORAS), key=lambda sample: sample[1], default=({}, 0.0))
    told_of = (labels.get(f"{state}_lora_adapters", "") for state in ("running", "waiting"))
    names = sorted({name for names in told_of for name in names.split(",") if name})
    return reading(Signal.LORAS, len(names), LORAS, tuple(names))


_CRASHES: logs.Crashes = (
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

"""TensorRT-LLM: its OpenAI-compatible server, `trtllm-serve`, attached to by URL or launched as a child process.

Facts are those of TensorRT-LLM's main branch of autumn 2026 (`serve/openai_protocol.py` at 0076e939); release 1.2 lacks
some of them: the tokenizer, the gauges of running and waiting requests, and the `--set` argument.

Rules:
- The server refuses requests with an unknown key, except for the Responses API, and some keys as null. So only the keys
  of its protocol are sent, also within `stream_options`, and no null.
- Only one of `max_tokens` and `max_completion_tokens` may be sent; the newer one wins.
- The server does not check the model's name. An adapter (`lora_request` in the body) is not a model of its own.
- Errors are flat objects; those of request checks are a string under `error`. If the executor died, the answer is
  `null`, and the server exits.
- `/metrics` is JSON and is emptied by each read, so it is never requested. Prometheus' page is at another path, if the
  server's configuration has `return_perf_metrics` and `enable_iter_perf_stats`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field, JsonValue

from backends.base import (
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchOptions,
    MetricsPage,
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Signals,
)
from backends.dialect import edits, known, rewrite
from backends.dialect.openai import OpenAICompatible
from backends.facts import logs, metrics
from backends.facts.launching import Count, GpuServerLaunch, Text, arguments, program
from backends.facts.signals import Metric, Table, from_metrics
from backends.facts.units import Share
from backends.metrics import Counted, Finish, MetricsTable, Outcomes, Timing

COMMAND = ("trtllm-serve", "serve")
INSTALL = "install it with `pip install tensorrt-llm` from NVIDIA's package index"

_BOTH = """add_special_tokens best_of conversation_params disaggregated_params early_stopping echo
    frequency_penalty ignore_eos include_stop_str_in_output length_penalty logit_bias logprobs lora_request max_tokens
    min_p min_tokens model n presence_penalty priority prompt_ignore_length repetition_penalty response_format seed
    skip_special_tokens spaces_between_special_tokens stop stop_token_ids stream stream_options suffix temperature
    thinking_token_budget top_k top_p top_p_min truncate_prompt_tokens use_beam_search user"""
_CHAT = """add_generation_prompt agent_hierarchy cache_salt chat_template chat_template_kwargs documents
    max_completion_tokens media_io_kwargs messages mm_processor_kwargs parallel_tool_calls prompt_token_ids
    reasoning_effort thinking tool_choice tools top_logprobs"""
_COMPLETIONS = "detokenize prompt return_context_logits"

KEYS: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: frozenset(f"{_BOTH} {_CHAT}".split()),
    Operation.COMPLETIONS: frozenset(f"{_BOTH} {_COMPLETIONS}".split()),
    Operation.EMBEDDINGS: frozenset(
        ("model", "input", "encoding_format", "dimensions", "user", "add_special_tokens")
    ),
    Operation.TOKENIZE: frozenset(("model", "prompt")),
}
"""The keys that a request may have, by operation."""
STREAM_KEYS = frozenset(("include_usage", "continuous_usage_stats"))


class TensorRTLLMLaunch(GpuServerLaunch):
    """How to start TensorRT-LLM's server."""

    backend: Literal["pytorch", "tensorrt", "_autodeploy"] | None = Field(
        None, description="TensorRT-LLM's engine. Left out, `pytorch`."
    )
    pipeline_parallel: Count | None = Field(
        None, description="Groups of GPUs that each hold a part of the model's layers. Left out, one."
    )
    gpu_memory: Share | None = Field(
        None,
        description="How much of the GPU memory that the model leaves free the KV cache takes. Left out, `90%`.",
    )
    chunked_prefill: bool = Field(
        False,
        description="Whether long prompts are computed in pieces, between the tokens of other requests.",
    )
    config: Text | None = Field(
        None,
        description="TensorRT-LLM's own YAML file, with more settings. Options here win over it.",
    )
    metrics: bool = Field(
        False,
        description="Whether it reports its load. It needs a `trtllm-serve` with `--set`; for an older one, put "
        "`return_perf_metrics: true` and `enable_iter_perf_stats: true` into `config`.",
    )
    kv_cache_dtype: Text | None = Field(
        None, description="The type of the KV cache, such as `fp8`. Needs `--set`, as `metrics`."
    )
    prefix_caching: bool | None = Field(
        None,
        description="Whether prompts with the same beginning share their KV cache. Needs `--set`, as `metrics`.",
    )
    quantization: Text | None = Field(
        None,
        description="How the weights are quantized, such as `FP8`. Left out, as the model says. Needs `--set`, as "
        "`metrics`.",
    )
    dtype: Text | None = Field(
        None, description="The type of the weights. Left out, as the model says. Needs `--set`, as `metrics`."
    )
    speculative: dict[str, JsonValue] = Field(
        {}, description="TensorRT-LLM's `speculative_config`. Needs `--set`, as `metrics`."
    )

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL)]
        self.check_paths(*filter(None, [self.config]))
        argv += [self.located(), "--host", host, "--port", str(port)]
        argv += arguments(self, FLAGS)
        for key, value in self._settings().items():
            argv += ["--set", f"{key}={msgspec.json.encode(value).decode()}"]
        return self.process([*argv, *self.extra_args])

    def _settings(self) -> dict[str, Any]:
        """Return what is set in TensorRT-LLM's configuration, by its key there."""
        found = {key: getattr(self, field) for field, key in SETTINGS.items()}
        if self.metrics:
            found |= {"return_perf_metrics": True, "enable_iter_perf_stats": True}
        return {key: value for key, value in found.items() if value is not None and value != {}}


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "name": "--served_model_name",
    "backend": "--backend",
    "tensor_parallel": "--tp_size",
    "pipeline_parallel": "--pp_size",
    "gpu_memory": "--free_gpu_memory_fraction",
    "max_model_len": "--max_seq_len",
    "max_num_seqs": "--max_batch_size",
    "max_batched_tokens": "--max_num_tokens",
    "chunked_prefill": "--enable_chunked_prefill",
    "reasoning_parser": "--reasoning_parser",
    "tool_parser": "--tool_parser",
    "chat_template": "--chat_template",
    "trust_remote_code": "--trust_remote_code",
    "config": "--config",
}
SETTINGS: Mapping[str, str] = {
    "kv_cache_dtype": "kv_cache_config.dtype",
    "prefix_caching": "kv_cache_config.enable_block_reuse",
    "quantization": "quant_config.quant_algo",
    "dtype": "dtype",
    "speculative": "speculative_config",
}
"""Options without an argument of their own, by their key in TensorRT-LLM's configuration."""

TABLE: Table = {
    Signal.RUNNING: (Metric("trtllm_num_requests_running", "after 1.2"),),
    Signal.WAITING: (Metric("trtllm_num_requests_waiting", "after 1.2"),),
    Signal.SLOTS: (Metric("trtllm_max_num_active_requests", "after 1.2"),),
    Signal.KV_USE: (Metric("trtllm_kv_cache_utilization", "since 1.1", combine=max),),
    Signal.PREFIX_HITS: (Metric("trtllm_kv_cache_hit_rate", "since 1.1", combine=max),),
}


def _of(name: str, versions: str = "after 1.2") -> tuple[Metric, ...]:
    return (Metric(f"trtllm_{name}", versions),)


PAGE = metrics.page(
    "/prometheus/metrics",
    MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: _of("prompt_tokens_total"),
            Counted.PROMPT_TOKENS_CACHED: _of("prompt_cached_tokens_total"),
            Counted.GENERATION_TOKENS: _of("generation_tokens_total"),
            Counted.DRAFTED_TOKENS: _of("spec_decode_num_draft_tokens_total"),
            Counted.ACCEPTED_TOKENS: _of("spec_decode_num_accepted_tokens_total"),
        },
        finished=(
            Outcomes(
                "trtllm_request_success_total",
                "since 1.1",
                "finished_reason",
                {
                    "stop": Finish.STOP,
                    "length": Finish.LENGTH,
                    "cancelled": Finish.ABORT,
                    "timeout": Finish.ERROR,
                },
            ),
        ),
        timings={
            Timing.FIRST_TOKEN: _of("time_to_first_token_seconds", "since 1.1"),
            Timing.PER_TOKEN: _of("time_per_output_token_seconds", "since 1.1"),
            Timing.REQUEST: _of("e2e_request_latency_seconds", "since 1.1"),
            Timing.QUEUE: _of("request_queue_time_seconds", "since 1.1"),
        },
    ),
    [TABLE],
)


class TensorRTLLM(OpenAICompatible):
    """TensorRT-LLM's server."""

    name: ClassVar[str] = "tensorrt-llm"
    checked: ClassVar[str] = "TensorRT-LLM main, autumn 2026 (source)"
    launch_options: ClassVar[type[LaunchOptions] | None] = TensorRTLLMLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset({*KEYS, Operation.RESPONSES, Operation.MESSAGES})
    paths: ClassVar[Mapping[Operation, str]] = {Operation.TOKENIZE: "/_internal/tokenize"}
    takes_template: ClassVar[bool] = True

    def call(self, request: Request, model: str) -> Call:
        keys = KEYS.get(request.operation)
        if keys is None:
            return super().call(request, model)
        sent = rewrite.members(request.body)
        members = edits.without_nulls(sent)
        told = known.only(members, keys)
        _edit(request, members)
        if members != sent:
            request = msgspec.structs.replace(request, body=rewrite.joined(members))
        return msgspec.structs.replace(super().call(request, model), dropped=told)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if body.strip() == b"null":
            return Failure(Kind.FAILED, "the engine's executor died")
        return super().reply(request, model, headers, body)

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        return Health.READY if status == 200 else Health.DOWN

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/prometheus/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        (page,) = answers
        return from_metrics(page, TABLE)

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


def _edit(request: Request, members: dict[str, bytes]) -> None:
    """Leave one limit, and the server's own stream options. Raise RequestError for messages to tokenize."""
    if request.operation is Operation.TOKENIZE and "prompt" not in members:
        message = "the engine tokenizes a prompt only, no messages"
        raise RequestError(Failure(Kind.UNSUPPORTED, message, param="messages"))
    if "max_completion_tokens" in members:
        members.pop("max_tokens", None)
    if members.get("stream_options", b"").startswith(b"{"):
        options = rewrite.members(members["stream_options"])
        members["stream_options"] = rewrite.joined(
            {name: value for name, value in options.items() if name in STREAM_KEYS}
        )


_CRASHES: logs.Crashes = (
    (re.compile(r"Failed to bind socket to \S+: .*in use"), logs.PORT_TAKEN),
    (re.compile(r"No GPU devices found on the node"), "it finds no GPU"),
    (
        re.compile(r"No such option: --set"),
        "this trtllm-serve has no --set: put the settings into a 'config' file",
    ),
)

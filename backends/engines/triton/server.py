"""What both ways to speak to Triton share: what its errors mean, how load is read, and the arguments of actions.

Facts are those of tritonserver 2.51 (run) and of server 2.73, the vLLM backend and the TensorRT-LLM backend (source),
and of its OpenAI frontend (run with scripted models).

Rules:
- Whatever a backend says comes as an internal error of the server's, the client's own mistakes and a full queue too. So
  the words decide, and clients get words of our own: around an engine's there may be a value of Python's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import Action, Call, Failure, Headers, Kind, MetricsPage, RequestError, Signal, Signals
from backends.dialect.errors import CONTEXT_MARKS
from backends.dialect.openai import OpenAICompatible
from backends.facts import metrics, signals
from backends.metrics import Counted, Metric, MetricsTable, Timing

_CUSTOM = "vLLM backend before vLLM V1, with REPORT_CUSTOM_METRICS in the model's config"
_PENDING = signals.Metric("nv_inference_pending_request_count", "2.33 on: not yet handed to the model")


def _trtllm(
    kind: str, label: str = "request_type", name: str = "nv_trt_llm_request_metrics"
) -> signals.Metric:
    return signals.Metric(name, "TensorRT-LLM backend, 23.11 on", {label: kind})


SIGNALS: Mapping[str, signals.Table] = {
    "vllm": {
        Signal.RUNNING: (signals.Metric("vllm:num_requests_running", _CUSTOM),),
        Signal.WAITING: (signals.Metric("vllm:num_requests_waiting", _CUSTOM), _PENDING),
        Signal.KV_USE: (
            signals.Metric("vllm:kv_cache_usage_perc", "vLLM's own newer name", combine=max),
            signals.Metric("vllm:gpu_cache_usage_perc", _CUSTOM, combine=max),
        ),
    },
    "tensorrtllm": {
        Signal.RUNNING: (_trtllm("scheduled"),),
        Signal.WAITING: (_trtllm("waiting"), _PENDING),
        Signal.SLOTS: (_trtllm("max"),),
        Signal.KV_USE: (_trtllm("fraction", "kv_cache_block_type", "nv_trt_llm_kv_cache_block_metrics"),),
    },
    "llmapi": {Signal.WAITING: (_PENDING,)},
    "custom": {Signal.WAITING: (_PENDING,)},
}
"""What each backend publishes on Triton's metrics page."""


def _of(name: str) -> tuple[Metric, ...]:
    return (Metric(f"vllm:{name}", _CUSTOM),)


MEASURED: Mapping[str, MetricsTable] = {
    "vllm": MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: _of("prompt_tokens_total"),
            Counted.GENERATION_TOKENS: _of("generation_tokens_total"),
            Counted.PREEMPTIONS: _of("num_preemptions_total"),
        },
        timings={
            Timing.FIRST_TOKEN: _of("time_to_first_token_seconds"),
            Timing.BETWEEN_TOKENS: _of("time_per_output_token_seconds"),
            Timing.REQUEST: _of("e2e_request_latency_seconds"),
            Timing.QUEUE: _of("request_queue_time_seconds"),
        },
    ),
}
"""What is read of it besides. Triton's own counts of requests are not: an ensemble and its parts each count the same
request."""
PAGES = {
    name: metrics.page("/metrics", MEASURED.get(name, MetricsTable()), [table])
    for name, table in SIGNALS.items()
}

_TOO_LONG = re.compile(
    r"[^'\".:]*(?:longer than the maximum model length|exceeds maximum input length)[^'\".]*"
)
_MEANINGS: tuple[tuple[re.Pattern[str], Kind, str], ...] = (
    # A 404 of the server itself, a 500 of its OpenAI frontend. The message does not say whether it is loading.
    (re.compile(r"has no available versions"), Kind.MISSING, "the engine has not loaded this model"),
    (re.compile(r"^Unknown (?:model|LoRA):"), Kind.MISSING, "the engine does not have this model"),
    (re.compile(r"Exceeds maximum queue size"), Kind.OVERLOADED, "the engine is overloaded"),
    # What the vLLM backend says when vLLM has refused the settings: it fails while it cleans up.
    (
        re.compile(r"'NoneType' object has no attribute 'lora_name'"),
        Kind.REJECTED,
        "the engine's model refuses one of the settings of this request",
    ),
    (
        re.compile(r"does not support '\w+' request|do not support embedding requests"),
        Kind.UNSUPPORTED,
        "the engine's model does not do this operation",
    ),
)
"""What words of an error mean, whatever the status; those of server 2.73 and of the backends behind it."""


class TritonServer(OpenAICompatible):
    """A Triton server, by whichever protocol it is spoken to."""

    name: ClassVar[str] = "triton"
    checked: ClassVar[str] = "Triton 2.51.0 with a Python backend (run); 2.73, its LLM backends (source)"
    actions: ClassVar[frozenset[Action]] = frozenset({Action.LIST, Action.LOAD, Action.UNLOAD})

    def __init__(self, backend: str, max_tokens: int) -> None:
        """`backend` is a key of `SIGNALS`; `max_tokens` limits answers for clients that set no limit."""
        self._backend = backend
        self._max_tokens = max_tokens

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        said = failure.detail
        if failure.kind is Kind.FAILED and any(mark in said for mark in CONTEXT_MARKS):
            words = _TOO_LONG.search(said)
            message = words[0].strip() if words else "the prompt is longer than the model's context"
            return dataclasses.replace(failure, kind=Kind.CONTEXT, message=message)
        for pattern, kind, message in _MEANINGS:
            if pattern.search(said):
                return dataclasses.replace(failure, kind=kind, message=message)
        return failure

    def signal_calls(self) -> tuple[Call, ...]:
        """Return the metrics page, which is on a port of its own (8002 by default): the backend's `metrics_url`."""
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        return signals.from_metrics(answers[0], SIGNALS[self._backend])

    def metrics(self) -> MetricsPage | None:
        return PAGES[self._backend]


def model_and_settings(action: Action, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the model of an action, and its other arguments as Triton takes them. Raise ValueError for wrong ones."""
    known = {Action.LOAD: {"model", "config"}, Action.UNLOAD: {"model", "unload_dependents"}}[action]
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(f"{action} takes {', '.join(sorted(known))}, not {', '.join(unknown)}")
    model = arguments.get("model")
    if not isinstance(model, str) or not model:
        raise ValueError(f"{action} needs a 'model'")
    settings = {name: value for name, value in arguments.items() if name != "model"}
    if "config" in settings:
        settings["config"] = msgspec.json.encode(settings["config"]).decode()
    return model, settings


def refused(kind: Kind, message: str, param: str | None = None) -> RequestError:
    """Return the error for a request that Triton cannot be asked for; `param` is the member at fault."""
    return RequestError(Failure(kind, message, param=param))

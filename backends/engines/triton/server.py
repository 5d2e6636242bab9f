"""What both ways to speak to Triton share: how load is read, and the arguments of actions on models.

Facts are those of tritonserver 2.51 (run) and of server 2.73, the vLLM backend and the TensorRT-LLM backend (source).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import Action, Call, Failure, Kind, Request, RequestError, Signal, Signals
from backends.dialect.errors import readable
from backends.dialect.openai import OpenAICompatible
from backends.engines.triton import tensors
from backends.facts import signals

_CUSTOM = "vLLM backend, with REPORT_CUSTOM_METRICS in the model's config"
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


class TritonServer(OpenAICompatible):
    """A Triton server, by whichever protocol it is spoken to."""

    name: ClassVar[str] = "triton"
    checked: ClassVar[str] = "Triton 2.51.0 with a Python backend (run); 2.73, its LLM backends (source)"
    actions: ClassVar[frozenset[Action]] = frozenset({Action.LIST, Action.LOAD, Action.UNLOAD})

    def __init__(self, backend: str, max_tokens: int) -> None:
        """`backend` is a key of `SIGNALS`; `max_tokens` limits answers for clients that set no limit."""
        self._backend = backend
        self._max_tokens = max_tokens

    def signal_calls(self) -> tuple[Call, ...]:
        """Return the metrics page, which is on a port of its own (8002 by default): the backend's `metrics_url`."""
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        return signals.from_metrics(answers[0], SIGNALS[self._backend])

    def _read(self, request: Request) -> tensors.Asked:
        """Decode a request. Raise RequestError where a member has the wrong type."""
        try:
            return tensors.asked(request.body)
        except (ValueError, RecursionError) as error:
            raise refused(Kind.REJECTED, readable(str(error))) from error


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

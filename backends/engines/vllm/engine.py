"""vLLM: its OpenAI-compatible server, attached to by URL or launched as a child process.

Facts are those of vLLM 0.33, with the older names of what was renamed.

Rules:
- Bodies pass unchanged both ways, but for nulls and empty values that vLLM refuses (`asked.py`). A LoRA adapter is a
  model of its own, in requests and in lists.
- The server listens only once the model is loaded; before that, connections are refused. When its engine has died it
  answers `/health` for a moment, and then listens no more.
- What it refuses after a stream has begun is told in another way in each API (`answers.py`). In a Responses stream it
  is not told at all: the connection ends.
- While it sleeps it takes requests and says nothing until it is woken; `/health` says nothing of it. `/is_sleeping`
  tells, in development mode, without which it cannot sleep.
- A client that leaves is noticed within a second, of a whole answer as of a stream (measured with 0.32): each is asked
  for as the client wants it.
- `tool_choice` holds the model to a name, and to the schema of its arguments only if the tool says `strict`.
- The finish reason `abort` means that the server dropped the request, because it was put to sleep or an operator
  aborted the request: a failure. `repetition` is an end that the client asked for with vLLM's own parameters, so it
  passes.
- `/sleep` and `/wake_up` exist only in development mode, and adapters can be loaded only where that was allowed; a
  launch enables both if its options say so. Clients must reach such a server only through the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from backends.base import (
    NATIVE,
    Action,
    Call,
    Failure,
    Headers,
    Health,
    LaunchOptions,
    MetricsPage,
    Operation,
    Reading,
    Request,
    Signal,
    Signals,
    Status,
)
from backends.dialect.openai import OpenAICompatible
from backends.engines.vllm import answers, asked
from backends.engines.vllm.launch import CRASHES, LAST, VLLMLaunch
from backends.facts import logs, metrics, vllm
from backends.facts.actions import checked_arguments
from backends.facts.signals import Metric, Table, from_metrics, reading, samples

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


class _Sleeping(msgspec.Struct):
    is_sleeping: bool = False


_sleeping = msgspec.json.Decoder(_Sleeping)

LORAS = "vllm:lora_requests_info"
"""The metric whose labels name the adapters in use. Its value is a time in seconds since 1970; the latest counts."""


PAGE = metrics.page("/metrics", vllm.table(), [TABLE], [LORAS])


class VLLM(OpenAICompatible):
    """vLLM's server."""

    name: ClassVar[str] = "vllm"
    checked: ClassVar[str] = "vLLM 0.33.0 (source), 0.32.0 on CPU (run)"
    shortens: ClassVar[bool] = False
    keeps: ClassVar[frozenset[str]] = frozenset(("max_tokens_per_doc",))
    takes_template: ClassVar[bool] = True
    runs_tools: ClassVar[frozenset[str]] = frozenset(("web_search_preview", "code_interpreter", "container"))
    launch_options: ClassVar[type[LaunchOptions] | None] = VLLMLaunch
    operations: ClassVar[frozenset[Operation]] = NATIVE - {
        Operation.INFILL,
        Operation.SPEECH,
        Operation.IMAGES,
        Operation.IMAGE_EDITS,
        Operation.IMAGE_VARIATIONS,
    }
    version_path: ClassVar[str] = "/version"
    actions: ClassVar[frozenset[Action]] = frozenset(
        {Action.LOAD_LORA, Action.UNLOAD_LORA, Action.SLEEP, Action.WAKE}
    )

    def call(self, request: Request, model: str) -> Call:
        return super().call(asked.edited(request), model)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        return answers.failure(status, headers, body)

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        return Health.READY if status == 200 else Health.DOWN

    def sleeping(self) -> Call | None:
        return Call("/is_sleeping", method="GET")

    def sleeps(self, body: bytes) -> bool:
        try:
            return _sleeping.decode(body).is_sleeping
        except (ValueError, RecursionError):
            return False

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        (page,) = answers
        return {**from_metrics(page, TABLE), Signal.LORAS: _loras(page)}

    def metrics(self) -> MetricsPage | None:
        return PAGE

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
        return logs.crash_reason(log, CRASHES, LAST)


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

"""SGLang: its OpenAI-compatible server, attached to by URL or launched as a child process.

Facts are those of SGLang 0.5.23.

Rules:
- The probe is `/ready`, which answers 503 while the server starts, warms up, is paused or shuts down; `/health` would
  compute a token each time. After somebody's `/health` has failed `/ready` says 503 until `/health` succeeds, so it is
  asked then. A server too old for `/ready` counts as ready if it answers at all.
- The server does not check the model's name, except that `model:adapter` selects a LoRA adapter. So adapters are listed
  under that name: asked for by the adapter's name alone, the model without the adapter would answer.
  In the Responses API the model without the adapter answers in any case.
- Requests are edited in `asked.py`. Reranking, scoring and detokenizing have forms of their own, which `forms.py`
  translates; `answers.py` reads answers and errors.
- The finish reason `abort` means that the server dropped the request: a failure.
- A Message that the server dropped ends like a whole one, with `end_turn`. Nothing tells them apart, so the adapter
  does not offer Messages.
- The server refuses nothing while it sleeps, so it is paused before, which aborts what is in progress.
- It does not hear `parallel_tool_calls: false`, so calls beyond the first are left out.
- Load is read from `/v1/loads`, which needs no flag, and from the metrics page, which needs `--enable-metrics`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

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
    ModelCard,
    Operation,
    Reading,
    Reply,
    Request,
    Signal,
    Signals,
    Status,
    StreamDecoder,
)
from backends.dialect import one_call
from backends.dialect.openai import OpenAICompatible
from backends.engines.sglang import answers, asked
from backends.engines.sglang.forms import REPLIES
from backends.engines.sglang.launch import SGLangLaunch
from backends.facts import cards, logs, metrics
from backends.facts.actions import checked_arguments
from backends.facts.signals import Metric, Table, from_metrics, reading
from backends.metrics import Counted, Finish, MetricsTable, Outcomes, Timing

LOADS = "/v1/loads"
_COUNTED = b"prompt_tokens_total{"
"""A counter that is on the metrics page once a request was computed."""


def _both(name: str, **more: Any) -> tuple[Metric, ...]:
    """Return a metric under both of its prefixes; Ray and `/v1/loads` use the second one."""
    per = more.pop("per", None)
    return tuple(
        Metric(prefix + name, versions, per=per and prefix + per, **more)
        for prefix, versions in (("sglang:", "since 0.4"), ("sglang_", "0.5, not from its own metrics page"))
    )


TABLE: Table = {
    Signal.RUNNING: _both("num_running_reqs"),
    Signal.WAITING: (*_both("num_queue_reqs"), Metric("sglang_num_waiting_reqs", "0.5, the page of loads")),
    Signal.KV_USE: _both("token_usage", combine=fmean),
    Signal.PREFIX_HITS: _both("cached_tokens_total", per="prompt_tokens_total"),
    Signal.SLOTS: (Metric("sglang_max_running_requests", "0.5, the page of loads"),),
    Signal.LORAS: _both("lora_pool_slots_used"),
}


def _of(name: str, **labels: str) -> tuple[Metric, ...]:
    return (Metric(f"sglang:{name}", "0.5", labels),)


PAGE = metrics.page(
    "/metrics",
    MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: _of("prompt_tokens_total"),
            Counted.PROMPT_TOKENS_CACHED: _of("cached_tokens_total"),
            Counted.GENERATION_TOKENS: _of("generation_tokens_total"),
            # Every stage of a pipeline counts the same requests.
            Counted.PREEMPTIONS: _of("num_retracted_requests_total", pp_rank="0"),
        },
        finished=(Outcomes("sglang:num_requests_total", "0.5", other=Finish.UNKNOWN),),
        timings={
            # Of a whole answer it is the time to the last token.
            Timing.FIRST_TOKEN: _of("time_to_first_token_seconds", is_streaming="true"),
            Timing.BETWEEN_TOKENS: _of("inter_token_latency_seconds"),
            Timing.PER_TOKEN: _of("request_time_per_output_token_seconds"),
            Timing.REQUEST: _of("e2e_request_latency_seconds"),
            Timing.QUEUE: _of("queue_time_seconds", pp_rank="0"),
        },
    ),
    [TABLE],
)


class _Slots(msgspec.Struct):
    slots_used: float


class _Load(msgspec.Struct):
    """The load of one rank in `/v1/loads`. Older versions lack the optional fields."""

    num_running_reqs: float
    num_waiting_reqs: float
    token_usage: float | None = None
    max_running_requests: float | None = None
    lora: _Slots | None = None


class _Loads(msgspec.Struct):
    loads: list[_Load]


_loads = msgspec.json.Decoder(_Loads)


class SGLang(OpenAICompatible):
    """SGLang's server."""

    name: ClassVar[str] = "sglang"
    checked: ClassVar[str] = "SGLang 0.5.23 (its server with a scripted model: run, recordings)"
    shortens: ClassVar[bool] = False
    runs_tools: ClassVar[frozenset[str]] = frozenset(("web_search_preview", "code_interpreter"))
    launch_options: ClassVar[type[LaunchOptions] | None] = SGLangLaunch
    operations: ClassVar[frozenset[Operation]] = NATIVE - {
        Operation.INFILL,
        Operation.MESSAGES,
        Operation.TRANSLATIONS,
        Operation.SPEECH,
        Operation.IMAGES,
        Operation.IMAGE_EDITS,
        Operation.IMAGE_VARIATIONS,
    }
    actions: ClassVar[frozenset[Action]] = frozenset(
        {Action.LOAD_LORA, Action.UNLOAD_LORA, Action.SLEEP, Action.WAKE}
    )

    @classmethod
    def adapter_name(cls, model: str, adapter: str) -> str:
        return f"{model}:{adapter}"

    def call(self, request: Request, model: str) -> Call:
        return super().call(asked.edited(request, model), model)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        translate = REPLIES.get(request.operation)
        # A body of another form is interpreted as it is.
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            if translate is not None:
                body = translate(request, body)
            elif one_call.wanted(request):
                body = one_call.first_call(body)
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        if one_call.wanted(request):
            return one_call.FirstCall(self, request)
        return super().decoder(request, model)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        return answers.failure(self, status, headers, body)

    def health(self) -> Call:
        return Call("/ready", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        if status == 503:
            return Health.LOADING
        return Health.READY if status < 500 else Health.DOWN

    def health_again(self, status: int) -> Call | None:
        return Call("/health", method="GET") if status == 503 else None

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        return cards.openai(body, joined=":")

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call(f"{LOADS}?include=core,lora", method="GET"), Call("/metrics", method="GET"))

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        loads, page = answers
        found = dict(from_metrics(page, TABLE))
        if page is None:
            found = {
                signal: Reading(
                    Status.MISSING, source="no metrics page: SGLang needs --enable-metrics for it"
                )
                for signal in TABLE
            }
        elif found[Signal.PREFIX_HITS].status is Status.MISSING and _COUNTED in page:
            # The counter of hits is not on the page before the first one.
            found[Signal.PREFIX_HITS] = reading(Signal.PREFIX_HITS, 0.0, "cached_tokens_total")
        return {**found, **_from_loads(loads)}

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `load_lora` takes `name`, `path`, and `pinned` to keep the adapter on the GPU; `unload_lora` takes `name`.
        An adapter that was unloaded is loaded again by the next request for it. `sleep` and `wake` take `tags`, a list
        of `weights` and `kv_cache`, to release or restore only one of them; `sleep` aborts what is in progress.
        """
        match action:
            case Action.LOAD_LORA:
                given = checked_arguments(action, arguments, {"name": str, "path": str}, {"pinned": bool})
                pinned = {"pinned": given["pinned"]} if "pinned" in given else {}
                body = {"lora_name": given["name"], "lora_path": given["path"], **pinned}
                return Call("/load_lora_adapter", msgspec.json.encode(body))
            case Action.UNLOAD_LORA:
                given = checked_arguments(action, arguments, {"name": str})
                return Call("/unload_lora_adapter", msgspec.json.encode({"lora_name": given["name"]}))
            case Action.SLEEP:
                given = checked_arguments(action, arguments, {}, {"tags": list})
                release = Call("/release_memory_occupation", msgspec.json.encode(given))
                return Call("/pause_generation", b"{}", then=release)
            case Action.WAKE:
                given = checked_arguments(action, arguments, {}, {"tags": list})
                then = Call("/continue_generation", b"{}")
                return Call("/resume_memory_occupation", msgspec.json.encode(given), then=then)
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


def _from_loads(body: bytes | None) -> Signals:
    """Return the load of all ranks; nothing if the server is too old to report it."""
    try:
        loads = _loads.decode(body).loads if body is not None else []
    except (ValueError, RecursionError):
        return {}
    if not loads:
        return {}
    values: dict[Signal, list[float | None]] = {
        Signal.RUNNING: [load.num_running_reqs for load in loads],
        Signal.WAITING: [load.num_waiting_reqs for load in loads],
        Signal.SLOTS: [load.max_running_requests for load in loads],
        Signal.KV_USE: [load.token_usage for load in loads],
        Signal.LORAS: [load.lora.slots_used if load.lora else None for load in loads],
    }
    found = {signal: [value for value in each if value is not None] for signal, each in values.items()}
    return {
        signal: reading(signal, fmean(known) if signal is Signal.KV_USE else sum(known), LOADS)
        for signal, known in found.items()
        if known
    }


_CRASHES: logs.Crashes = (
    (
        re.compile(r"Not enough memory\. Please try to increase --mem-fraction-static"),
        "no memory is left for the KV cache: raise 'gpu_memory'",
    ),
    (
        re.compile(r"CUDA graph.*out of memory|Capture cuda graph failed"),
        "the GPU's memory is full: lower 'gpu_memory'",
    ),
    (re.compile(r"(\w[\w ]* at \d+ is not available)"), "{0}: its port was taken by another program"),
)

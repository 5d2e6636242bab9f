"""SGLang: its OpenAI-compatible server, attached to by URL or launched as a child process.

Facts are those of SGLang 0.5.23.

Rules:
- The probe is `/ready`, which answers 503 while the server starts, warms up, is paused or shuts down; `/health` would
  compute a token each time. A server too old for `/ready` counts as ready if it answers at all.
- The server does not check the model's name, except that `model:adapter` selects a LoRA adapter. So adapters are listed
  under that name: asked for by the adapter's name alone, the model without the adapter would answer.
- Reranking, scoring and detokenizing have forms of their own, which are translated; see `forms.py`.
- The finish reason `abort` means that the server dropped the request: a failure.
- Load is read from `/v1/loads`, which needs no flag, and from the metrics page, which needs `--enable-metrics`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

import msgspec
from pydantic import Field

from backends.base import (
    Action,
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchOptions,
    ModelCard,
    Operation,
    Reading,
    Reply,
    Request,
    Signal,
    Signals,
    Status,
)
from backends.dialect.openai import OpenAICompatible
from backends.engines.sglang.forms import EDITS, REPLIES
from backends.facts import logs
from backends.facts.actions import checked_arguments
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Plain, Text, arguments, program
from backends.facts.signals import Metric, Table, from_metrics, reading

COMMAND = ("sglang", "serve")
INSTALL = "install it with `pip install sglang`"


class SGLangLaunch(GpuServerLaunch):
    """How to start SGLang's server."""

    pipeline_parallel: Count | None = Field(
        None, description="Groups of GPUs that each hold a part of the model's layers. Left out, one."
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, each on GPUs of its own. Left out, one."
    )
    max_queue: Count | None = Field(
        None, description="Requests that may wait in SGLang; more are refused with 503. Left out, any number."
    )
    chunked_prefill: bool | None = Field(
        None, description="With `false`, long prompts are computed in one piece. Left out, `true`."
    )
    speculative: dict[Text, Plain] = Field(
        {},
        description="Speculative decoding, as SGLang's `--speculative-...` arguments have it: `{algorithm: EAGLE3, "
        "draft_model_path: org/draft, num_steps: 3, eagle_topk: 1, num_draft_tokens: 4}`.",
    )
    lora: dict[LoraName, Text] = Field(
        {},
        description="LoRA adapters: their names, and their folders or hub names. Clients ask for one as "
        "`model:adapter`.",
    )
    lora_loading: bool = Field(
        False,
        description="Whether adapters may be loaded and unloaded while it runs (`load_lora`, `unload_lora`). Without "
        "adapters in `lora` it needs `--lora-target-modules` in `extra_args` and `max_lora_rank`.",
    )
    max_loras: Count | None = Field(None, description="Adapters that may be used in one step. Left out, 8.")
    max_lora_rank: Count | None = Field(
        None, description="The largest rank of an adapter. Left out, that of those in `lora`."
    )
    sleep_mode: bool = Field(
        False,
        description="Whether it can be put to sleep, which frees its GPU memory, and woken (`sleep`, `wake`).",
    )
    embeddings: bool = Field(False, description="Whether a text model serves embeddings, and nothing else.")

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name, and `name:adapter` for each adapter."""
        name = self.public_name
        return (name, *(f"{name}:{adapter}" for adapter in self.lora))

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL)]
        self.check_paths(*self.lora.values())
        argv += ["--model-path", self.model, "--served-model-name", self.public_name]
        argv += ["--host", host, "--port", str(port), "--log-level-http", "warning"]
        argv += ["--enable-metrics", "--enable-cache-report"]
        argv += arguments(self, FLAGS)
        if self.prefix_caching is False:
            argv.append("--disable-radix-cache")
        if self.chunked_prefill is False:
            argv += ["--chunked-prefill-size", "-1"]
        for name, value in self.speculative.items():
            argv += [f"--speculative-{name.replace('_', '-')}", str(value)]
        return self.process([*argv, *self.extra_args])


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--tp-size",
    "pipeline_parallel": "--pp-size",
    "data_parallel": "--dp-size",
    "gpu_memory": "--mem-fraction-static",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_batched_tokens": "--max-prefill-tokens",
    "max_queue": "--max-queued-requests",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "reasoning_parser": "--reasoning-parser",
    "tool_parser": "--tool-call-parser",
    "chat_template": "--chat-template",
    "trust_remote_code": "--trust-remote-code",
    "sleep_mode": "--enable-memory-saver",
    "embeddings": "--is-embedding",
    "lora_loading": "--enable-lora",
    "lora": "--lora-paths=",
    "max_loras": "--max-loras-per-batch",
    "max_lora_rank": "--max-lora-rank",
}

LOADS = "/v1/loads"


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


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


_loads = msgspec.json.Decoder(_Loads)
_models = msgspec.json.Decoder(_Models)


class SGLang(OpenAICompatible):
    """SGLang's server."""

    name: ClassVar[str] = "sglang"
    checked: ClassVar[str] = "SGLang 0.5.23 (source)"
    launch_options: ClassVar[type[LaunchOptions] | None] = SGLangLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(Operation) - {
        Operation.INFILL,
        Operation.TRANSLATIONS,
        Operation.SPEECH,
        Operation.IMAGES,
    }
    actions: ClassVar[frozenset[Action]] = frozenset(
        {Action.LOAD_LORA, Action.UNLOAD_LORA, Action.SLEEP, Action.WAKE}
    )

    def call(self, request: Request, model: str) -> Call:
        edit = EDITS.get(request.operation)
        if edit is not None:
            request = msgspec.structs.replace(request, body=edit(request.body))
        return super().call(request, model)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        translate = REPLIES.get(request.operation)
        if translate is not None:
            # A body of another form is interpreted as it is.
            with contextlib.suppress(ValueError, RecursionError):
                body = translate(request, body)
        return super().reply(request, model, headers, body)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        for pattern, kind in _KINDS:
            if pattern.search(failure.detail):
                message = failure.detail if kind is Kind.REJECTED else _MESSAGES[kind]
                return dataclasses.replace(failure, kind=kind, message=message)
        return failure

    def health(self) -> Call:
        return Call("/ready", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        if status == 503:
            return Health.LOADING
        return Health.READY if status < 500 else Health.DOWN

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        try:
            cards = _models.decode(body).data
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a list of models: {error}") from error
        known = {card.id: card.max_model_len for card in cards}
        return tuple(
            ModelCard(card.id, card.max_model_len)
            if card.parent is None
            else ModelCard(f"{card.parent}:{card.id}", card.max_model_len or known.get(card.parent))
            for card in cards
        )

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
        return {**found, **_from_loads(loads)}

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `load_lora` takes `name`, `path`, and `pinned` to keep the adapter on the GPU; `unload_lora` takes `name`.
        `sleep` and `wake` take `tags`, a list of `weights` and `kv_cache`, to release or restore only one of them.
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
                return Call("/release_memory_occupation", msgspec.json.encode(given))
            case Action.WAKE:
                given = checked_arguments(action, arguments, {}, {"tags": list})
                return Call("/resume_memory_occupation", msgspec.json.encode(given))
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


# SGLang 0.5.23 sends these with status 400, 400 and 503.
_KINDS = (
    (re.compile(r"requested LoRA adapters are not loaded"), Kind.MISSING),
    (re.compile(r"add `--is-embedding` when launching"), Kind.UNSUPPORTED),
    (re.compile(r"Using priority is disabled for this server"), Kind.REJECTED),
)
_MESSAGES = {
    Kind.MISSING: "the engine does not have this LoRA adapter",
    Kind.UNSUPPORTED: "the engine does not offer this operation",
}


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

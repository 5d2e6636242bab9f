"""LMDeploy: its OpenAI-compatible server, `api_server`, attached to by URL or launched as a child process.

Facts are those of LMDeploy 0.18.

Rules:
- The server listens only once the model is loaded. After it has released its memory, `/health` says `sleeping` with
  status 200, and every request is refused until the server is woken.
- Errors are flat objects. Status 499 means that the server dropped the request, 409 that it mixed up two; a 503 of an
  engine that has stopped is a failure, no overload.
- The finish reasons `abort` and `parse_error` (a tool call that the parser could not read) are failures.
- Requests are edited in `asked.py`, and everything but several prompts is asked for as a stream; `answers.py` reads it.
- Embeddings are only a stub; there is no detokenizer, and the tokenizer takes texts only, no messages.
- With `--max-concurrent-requests` the server holds back every request beyond that number, health probes too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from backends.base import (
    Action,
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    LaunchOptions,
    MetricsPage,
    Operation,
    Reading,
    Reply,
    Request,
    RequestError,
    Signal,
    Signals,
    Status,
    StreamDecoder,
)
from backends.dialect import rewrite
from backends.dialect.openai import OpenAICompatible
from backends.engines.lmdeploy import answers, asked
from backends.engines.lmdeploy.launch import LMDeployLaunch
from backends.facts import logs, metrics
from backends.facts.actions import checked_arguments
from backends.facts.signals import Metric, Table, from_metrics, reading
from backends.metrics import Counted, Finish, MetricsTable, Outcomes, Timing

TABLE: Table = {
    Signal.RUNNING: (Metric("lmdeploy:num_requests_running", "since 0.9"),),
    Signal.WAITING: (Metric("lmdeploy:num_requests_waiting", "since 0.9"),),
    Signal.KV_USE: (Metric("lmdeploy:gpu_cache_usage_perc", "since 0.9", combine=fmean),),
    Signal.PREFIX_HITS: (Metric("lmdeploy:prefix_cache_hit_rate", "0.18", combine=fmean),),
}
BEFORE_ENGINE: Table = {Signal.WAITING: (Metric("lmdeploy:num_api_requests_waiting", "0.18"),)}
"""Requests that wait before the engine's own queue."""


def _of(name: str, versions: str = "0.18") -> tuple[Metric, ...]:
    return (Metric(f"lmdeploy:{name}", versions),)


_REJECTED = ("INPUT_LENGTH_ERROR", "NOT_SUPPORTED", "NO_QUEUE")
PAGE = metrics.page(
    "/metrics",
    MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: _of("prompt_tokens_total", "since 0.9"),
            Counted.PROMPT_TOKENS_CACHED: _of("cached_tokens_total"),
            Counted.GENERATION_TOKENS: _of("generation_tokens_total", "since 0.9"),
            Counted.DRAFTED_TOKENS: _of("spec_decode_num_draft_tokens_total"),
            Counted.ACCEPTED_TOKENS: _of("spec_decode_num_accepted_tokens_total"),
        },
        finished=(
            Outcomes(
                "lmdeploy:request_success_total",
                "0.18",
                "finished_reason",
                {
                    "ResponseType.SUCCESS": Finish.COMPLETE,
                    "ResponseType.FINISH": Finish.COMPLETE,
                    "ResponseType.CANCEL": Finish.ABORT,
                    **{f"ResponseType.{name}": Finish.REJECTED for name in _REJECTED},
                },
                other=Finish.ERROR,
            ),
        ),
        timings={
            Timing.FIRST_TOKEN: _of("time_to_first_token_seconds", "since 0.9"),
            Timing.BETWEEN_TOKENS: _of("iter_token_latency"),
            Timing.REQUEST: _of("e2e_request_latency_seconds", "since 0.9"),
            Timing.QUEUE: _of("request_queue_time_seconds", "since 0.9"),
        },
    ),
    [TABLE, BEFORE_ENGINE],
)


class _Health(msgspec.Struct):
    status: str = ""


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


class _Encoded(msgspec.Struct):
    input_ids: msgspec.Raw
    length: msgspec.Raw


_health = msgspec.json.Decoder(_Health)
_sleeping = msgspec.json.Decoder(_Sleeping)
_encoded = msgspec.json.Decoder(_Encoded)


class LMDeploy(OpenAICompatible):
    """LMDeploy's server."""

    name: ClassVar[str] = "lmdeploy"
    checked: ClassVar[str] = "LMDeploy 0.18.0 (its server with a scripted model: run, recordings)"
    launch_options: ClassVar[type[LaunchOptions] | None] = LMDeployLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {
            Operation.CHAT,
            Operation.COMPLETIONS,
            Operation.TOKENIZE,
            Operation.RESPONSES,
            Operation.MESSAGES,
            Operation.COUNT_TOKENS,
        }
    )
    actions: ClassVar[frozenset[Action]] = frozenset({Action.SLEEP, Action.WAKE})
    paths: ClassVar[Mapping[Operation, str]] = {Operation.TOKENIZE: "/v1/encode"}

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.TOKENIZE:
            request = msgspec.structs.replace(request, body=_encode_asked(request.body))
        elif request.operation in asked.OPERATIONS:
            call = super().call(request, model)
            body, whole = asked.body(request, model)
            return msgspec.structs.replace(call, body=body, whole=whole)
        return super().call(request, model)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is Operation.TOKENIZE:
            body = _tokens_of(body)
        elif request.operation is Operation.COMPLETIONS:
            with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                body = answers.cut(body, asked.wanted(request))
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        return answers.decoder(self, request, super().decoder(request, model))

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        if failure.status == 499:
            return dataclasses.replace(failure, kind=Kind.FAILED, message="the engine dropped the request")
        if failure.status == 409 or (failure.status == 503 and failure.detail.startswith(_STOPPED)):
            return dataclasses.replace(
                failure, kind=Kind.FAILED, message="the engine reported an internal error"
            )
        if failure.status == 503 and failure.detail.startswith("Engine is sleeping"):
            return dataclasses.replace(failure, kind=Kind.LOADING, message="the engine is asleep")
        return failure

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        try:
            state = _health.decode(body).status
        except (ValueError, RecursionError):
            state = ""  # older versions answer with their status only
        if state == "sleeping":
            return Health.ASLEEP
        if state == "initializing":
            return Health.LOADING
        return Health.READY if status == 200 else Health.DOWN

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"), Call("/is_sleeping", method="GET"))

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        page, state = answers
        found = dict(from_metrics(page, TABLE))
        early = from_metrics(page, BEFORE_ENGINE)[Signal.WAITING]
        waiting = found[Signal.WAITING]
        if waiting.value is not None and early.value is not None:
            source = f"{waiting.source} + {early.source}"
            found[Signal.WAITING] = reading(Signal.WAITING, waiting.value + early.value, source)
        return {**found, Signal.ASLEEP: _asleep(state)}

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`.

        `sleep` takes `level`: 1 keeps the weights in main memory, 2 drops them. `wake` takes `tags`, a list of
        `weights` and `kv_cache`, to restore only one of them.
        """
        match action:
            case Action.SLEEP:
                given = checked_arguments(action, arguments, {}, {"level": int})
                return Call(f"/sleep?{urlencode({'level': 1, **given})}", b"{}")
            case Action.WAKE:
                given = checked_arguments(action, arguments, {}, {"tags": list})
                return Call("/wakeup" + (f"?{urlencode(given, doseq=True)}" if given else ""), b"{}")
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


_STOPPED = "The inference engine is unavailable"


def _encode_asked(body: bytes) -> bytes:
    """Return a tokenize request in LMDeploy's form. Raise RequestError for messages, which it cannot tokenize."""
    members = rewrite.members(body)
    if "prompt" not in members:
        message = "the engine tokenizes a prompt only, no messages"
        raise RequestError(Failure(Kind.UNSUPPORTED, message, param="messages"))
    special = members.get("add_special_tokens", b"null")
    bos = {} if special == b"null" else {"add_bos": special}
    return rewrite.joined({"model": members["model"], "input": members["prompt"], **bos})


def _tokens_of(body: bytes) -> bytes:
    """Return LMDeploy's answer in the canonical form; any other body as it is."""
    try:
        answer = _encoded.decode(body)
    except (ValueError, RecursionError):
        return body
    return msgspec.json.encode({"count": answer.length, "tokens": answer.input_ids})


def _asleep(body: bytes | None) -> Reading:
    try:
        return reading(Signal.ASLEEP, float(_sleeping.decode(body or b"").is_sleeping), "/is_sleeping")
    except (ValueError, RecursionError):
        return Reading(Status.MISSING, source="no answer from /is_sleeping")


_CRASHES: logs.Crashes = (
    (
        re.compile(r"No enough gpu memory for (kv cache|runtime|state cache)"),
        "the GPU has no memory left for its {0}: lower 'gpu_memory', 'max_num_seqs' or 'max_batched_tokens'",
    ),
)

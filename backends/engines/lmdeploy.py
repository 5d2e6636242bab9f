"""LMDeploy: its OpenAI-compatible server, `api_server`, attached to by URL or launched as a child process.

Facts are those of LMDeploy 0.18.

Rules:
- The server listens only once the model is loaded. After it has released its memory, `/health` says `sleeping` with
  status 200; that counts as loading, because every request is refused until the server is woken.
- Errors are flat objects. Status 499 means that the server dropped the request.
- The finish reasons `abort` and `parse_error` (a tool call that the parser could not read) are failures.
- Embeddings are only a stub; there is no detokenizer, and the tokenizer takes texts only, no messages.
- LoRA adapters are given at the start and work only with the `pytorch` backend.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

import msgspec
from pydantic import Field, model_validator

from backends.base import (
    Action,
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchOptions,
    Operation,
    Reading,
    Reply,
    Request,
    RequestError,
    Signal,
    Signals,
    Status,
)
from backends.dialect import rewrite
from backends.dialect.openai import OpenAICompatible
from backends.facts import logs
from backends.facts.actions import checked_arguments
from backends.facts.launching import Count, GpuServerLaunch, LoraName, Plain, Text, arguments, program
from backends.facts.signals import Metric, Table, from_metrics, reading
from backends.facts.units import Share

COMMAND = ("lmdeploy", "serve", "api_server")
INSTALL = "install it with `pip install lmdeploy`"


class LMDeployLaunch(GpuServerLaunch):
    """How to start LMDeploy's server."""

    backend: Literal["turbomind", "pytorch"] | None = Field(
        None,
        description="LMDeploy's engine. Left out, `turbomind` where it knows the model, and `pytorch` for LoRA.",
    )
    data_parallel: Count | None = Field(
        None, description="Copies of the model behind one server, with `turbomind` only. Left out, one."
    )
    gpu_memory: Share | None = Field(
        None,
        description="How much of the GPU memory that the model leaves free the KV cache takes. Left out, `80%`.",
    )
    chat_template: Text | None = Field(
        None,
        description="The chat template, if it is not the model's own: the path of an LMDeploy template (JSON), or the "
        "name of a built-in one.",
    )
    quantization: Literal["hf", "awq", "gptq", "compressed-tensors", "fp8", "mxfp4"] | None = Field(
        None, description="How the weights are quantized. Left out, as the model says."
    )
    kv_cache_dtype: Literal["none", "int4", "int8", "fp8", "fp8_e5m2", "turbo_quant"] | None = Field(
        None, description="The type of the KV cache. Left out, that of the model."
    )
    speculative: dict[Text, Plain] = Field(
        {},
        description="Speculative decoding, as LMDeploy's `--speculative-...` arguments have it: `{algorithm: eagle3, "
        "draft_model: org/draft, num_draft_tokens: 3}`.",
    )
    lora: dict[LoraName, Text] = Field(
        {}, description="LoRA adapters: the model name under which clients ask for one, and its folder."
    )

    @model_validator(mode="after")
    def _fits_its_backend(self) -> LMDeployLaunch:
        if self.lora and self.backend == "turbomind":
            raise ValueError("'lora' needs 'backend: pytorch'")
        if (self.data_parallel or 1) > 1 and (self.lora or self.backend == "pytorch"):
            raise ValueError("'data_parallel' needs 'backend: turbomind'")
        return self

    def served_names(self) -> tuple[str, ...]:
        """Return the model's public name and those of its adapters."""
        return (self.public_name, *self.lora)

    def launch(self, host: str, port: int) -> Launch:
        argv = [*program(self.command or COMMAND, INSTALL)]
        self.check_paths(*self.lora.values())
        argv += [self.model, "--model-name", self.public_name]
        argv += ["--server-name", host, "--server-port", str(port)]
        backend = self.backend or ("pytorch" if self.lora else None)
        argv += ["--backend", backend] if backend is not None else []
        argv += arguments(self, FLAGS)
        for name, value in self.speculative.items():
            argv += [f"--speculative-{name.replace('_', '-')}", str(value)]
        return self.process([*argv, *self.extra_args])


FLAGS: Mapping[str, str | tuple[str, str]] = {
    "tensor_parallel": "--tp",
    "data_parallel": "--dp",
    "gpu_memory": "--cache-max-entry-count",
    "max_model_len": "--session-len",
    "max_num_seqs": "--max-batch-size",
    "max_batched_tokens": "--max-prefill-token-num",
    "dtype": "--dtype",
    "quantization": "--model-format",
    "kv_cache_dtype": "--quant-policy",
    "prefix_caching": "--enable-prefix-caching",
    "reasoning_parser": "--reasoning-parser",
    "tool_parser": "--tool-call-parser",
    "chat_template": "--chat-template",
    "trust_remote_code": "--trust-remote-code",
    "lora": "--adapters=",
}

TABLE: Table = {
    Signal.RUNNING: (Metric("lmdeploy:num_requests_running", "since 0.9"),),
    Signal.WAITING: (Metric("lmdeploy:num_requests_waiting", "since 0.9"),),
    Signal.KV_USE: (Metric("lmdeploy:gpu_cache_usage_perc", "since 0.9", combine=fmean),),
    Signal.PREFIX_HITS: (Metric("lmdeploy:prefix_cache_hit_rate", "0.18", combine=fmean),),
}
BEFORE_ENGINE: Table = {Signal.WAITING: (Metric("lmdeploy:num_api_requests_waiting", "0.18"),)}
"""Requests that wait before the engine's own queue."""


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
    checked: ClassVar[str] = "LMDeploy 0.18.0 (source)"
    launch_options: ClassVar[type[LaunchOptions] | None] = LMDeployLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.COMPLETIONS, Operation.TOKENIZE, Operation.RESPONSES, Operation.MESSAGES}
    )
    actions: ClassVar[frozenset[Action]] = frozenset({Action.SLEEP, Action.WAKE})
    paths: ClassVar[Mapping[Operation, str]] = {Operation.TOKENIZE: "/v1/encode"}

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.TOKENIZE:
            request = msgspec.structs.replace(request, body=_encode_asked(request.body))
        return super().call(request, model)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is Operation.TOKENIZE:
            body = _tokens_of(body)
        return super().reply(request, model, headers, body)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        if failure.status == 499:
            return dataclasses.replace(failure, kind=Kind.FAILED, message="the engine dropped the request")
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
        if state in ("sleeping", "initializing"):
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


def _encode_asked(body: bytes) -> bytes:
    """Return a tokenize request in LMDeploy's form. Raise RequestError for messages, which it cannot tokenize."""
    members = rewrite.members(body)
    if "prompt" not in members:
        raise RequestError(Failure(Kind.UNSUPPORTED, "the engine tokenizes a prompt only, no messages"))
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

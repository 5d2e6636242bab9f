"""Ray Serve: applications behind its HTTP proxy that speak OpenAI's API, attached to by URL or launched.

Facts are those of Ray 2.60: of the proxy, which every application has, and of Ray Serve LLM, whose applications answer
as the vLLM inside them does.

Rules:
- Bodies pass unchanged both ways. An adapter is a model of its own, `base:adapter`, in requests and in lists.
- The proxy is up long before an application is, and answers every path with an error that says so: that means loading,
  not a missing model.
- An application deployed under a prefix has a URL with that prefix.
- The proxy has no metrics: `metrics_url` names a node's metrics agent, which has vLLM's metrics under Ray's names.
- A launch deploys one application, or those of a config file, on a Ray instance of its own on this machine.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import msgspec
from pydantic import Field, JsonValue, model_validator

from backends.base import (
    Action,
    Call,
    EngineOptions,
    Failure,
    Headers,
    Health,
    Kind,
    Launch,
    LaunchError,
    LaunchOptions,
    MetricsPage,
    Operation,
    Request,
    Signal,
    Signals,
)
from backends.dialect.openai import OpenAICompatible
from backends.facts import logs, metrics, vllm
from backends.facts.actions import checked_arguments
from backends.facts.launching import ProcessLaunch, Text, place, program
from backends.facts.signals import Metric, Table, from_metrics
from backends.facts.units import Duration

COMMAND = ("python",)
INSTALL = "install Ray with `pip install 'ray[serve]'`"
RUNNER = Path(__file__).with_name("runner.py")
MODEL_HEADER = b"serve_multiplexed_model_id"
"""The header by which Ray's router finds a replica with the model in memory."""


class RayServeOptions(EngineOptions):
    """How to speak to an application of Ray Serve."""

    multiplexed: bool = Field(
        False,
        description="Whether the application multiplexes models (`@serve.multiplexed`), which needs Ray's header for "
        "the model. Ray Serve LLM does not need it.",
    )

    def engine(self) -> RayServe:
        return RayServe(self)


class RayServeLaunch(ProcessLaunch):
    """How to deploy applications on a Ray instance of their own."""

    app: Text | None = Field(
        None,
        description="The application, as `module:name`, such as `ray.serve.llm:build_openai_app`. Exactly one of `app` "
        "and `config`.",
    )
    args: dict[str, JsonValue] = Field(
        {},
        description="The arguments of `app`, if it is a function, such as `{llm_configs: [...]}`. Paths in them must "
        "be absolute: the engine works in a folder of its own.",
    )
    config: Path | None = Field(
        None,
        description="A config file of Ray Serve (`serve build`) instead; its `http_options` are replaced.",
    )
    app_dir: Path | None = Field(
        None, description="Where `app` is looked for. Left out, where the gateway was started."
    )
    command: tuple[Text, ...] | None = Field(
        None,
        min_length=1,
        description="The Python that has Ray, where it is not `python`: a path into another virtual environment.",
    )
    start_timeout: Duration = Field(
        1800.0, description="How long it may take until the applications are ready, downloads included."
    )
    stop_timeout: Duration = Field(
        30.0, description="How long Ray may take to end after SIGTERM; then it is killed."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> RayServeLaunch:
        if (self.app is None) == (self.config is None):
            raise ValueError("give exactly one of 'app' and 'config'")
        if self.args and self.app is None:
            raise ValueError("'args' belong to 'app'")
        return self

    def served_names(self) -> tuple[str, ...]:
        """Return none: only the running application can tell what it serves."""
        return ()

    def launch(self, host: str, port: int) -> Launch:
        if self.config is not None and not self.config.is_file():
            raise LaunchError(f"there is no config file {place(self.config)}: correct the path")
        argv = [*program(self.command or COMMAND, INSTALL), str(RUNNER), "--host", host, "--port", str(port)]
        if self.config is not None:
            argv += ["--config", str(self.config)]
        else:
            argv += ["--app", str(self.app), "--args", msgspec.json.encode(self.args).decode()]
        # It works in a folder of its own.
        argv += ["--app-dir", str((self.app_dir or Path()).absolute())]
        return self.process(argv, {"RAY_USAGE_STATS_ENABLED": "0"})


TABLE: Table = {
    Signal.RUNNING: (Metric("ray_vllm_num_requests_running", "since 2.49, from vLLM"),),
    Signal.WAITING: (Metric("ray_vllm_num_requests_waiting", "since 2.49, from vLLM"),),
    Signal.KV_USE: (
        Metric("ray_vllm_kv_cache_usage_perc", "since 2.50, from vLLM", combine=fmean),
        Metric("ray_vllm_gpu_cache_usage_perc", "before", combine=fmean),
    ),
    Signal.PREFIX_HITS: (
        Metric("ray_vllm_prefix_cache_hits_total", "all", per="ray_vllm_prefix_cache_queries_total"),
        Metric("ray_vllm_prefix_cache_hits", "some builds", per="ray_vllm_prefix_cache_queries"),
    ),
}


PAGE = metrics.page("/metrics", vllm.table("ray_vllm_"), [TABLE])


class RayServe(OpenAICompatible):
    """An application of Ray Serve that speaks OpenAI's API."""

    name: ClassVar[str] = "ray-serve"
    checked: ClassVar[str] = "Ray 2.60.0 (the proxy: run, recordings; Ray Serve LLM: source)"
    shortens: ClassVar[bool] = False
    takes_template: ClassVar[bool] = True
    options_type: ClassVar[type[EngineOptions] | None] = RayServeOptions
    launch_options: ClassVar[type[LaunchOptions] | None] = RayServeLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {
            Operation.CHAT,
            Operation.COMPLETIONS,
            Operation.EMBEDDINGS,
            Operation.SCORE,
            Operation.TOKENIZE,
            Operation.DETOKENIZE,
            Operation.TRANSCRIPTIONS,
        }
    )
    actions: ClassVar[frozenset[Action]] = frozenset({Action.SLEEP, Action.WAKE})

    def __init__(self, options: RayServeOptions | None = None) -> None:
        self._multiplexed = options is not None and options.multiplexed

    def call(self, request: Request, model: str) -> Call:
        call = super().call(request, model)
        if not self._multiplexed:
            return call
        return msgspec.structs.replace(call, headers=((MODEL_HEADER, model.encode()),))

    def health_of(self, status: int, body: bytes) -> Health:
        """Interpret the model list, or the proxy's own answer that no application is deployed or running yet."""
        if _not_deployed(status, body):
            return Health.LOADING
        return Health.READY if status < 404 else Health.DOWN

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        if _not_deployed(status, body):
            return Failure(Kind.LOADING, "the engine's application is not deployed yet", status=status)
        return super().failure(status, headers, body)

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        (page,) = answers
        return from_metrics(page, TABLE)

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def action(self, action: Action, arguments: Mapping[str, Any]) -> Call:
        """Return the request for an action; see `Engine.action`. They need an application of `build_dev_openai_app`.

        `sleep` takes `model` and `level`; `wake` takes `model`.
        """
        match action:
            case Action.SLEEP:
                given = checked_arguments(action, arguments, {"model": str}, {"level": int})
                options = {name: value for name, value in given.items() if name != "model"}
                return Call("/sleep", msgspec.json.encode({"model": given["model"], "options": options}))
            case Action.WAKE:
                given = checked_arguments(action, arguments, {"model": str})
                return Call("/wakeup", msgspec.json.encode({"model": given["model"]}))
        return super().action(action, arguments)

    def log_level(self, line: str) -> int:
        return logging.DEBUG if _PROBE.search(line) else logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


def _not_deployed(status: int, body: bytes) -> bool:
    """Return whether the proxy answered that no application is there yet."""
    return status in (404, 503) and any(mark in body for mark in _NOT_DEPLOYED)


_NOT_DEPLOYED = (  # 2.60
    b"/-/routes for available routes",
    b"Route table is not populated yet",
)

_PROBE = re.compile(r" -- GET /v1/models 200 ")

_CRASHES: logs.Crashes = (
    (re.compile(r"^ray_serve_runner: (.+)"), "{0}"),
    (re.compile(r"(The file .+ could not be found)"), "{0}"),
)

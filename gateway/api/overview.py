"""What operators see of the gateway as a whole: its state, its models, the requests that run; and how one is cancelled.

Rules:
- Each process answers for itself in plain JSON (`own`), and `merged` makes one answer of all of them. Numbers of
  requests and slots add up over the processes; what there is once is taken from the first.
- Nothing here holds the event loop for long, however many requests run (`gateway.running`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway import running
from gateway.admission.gate import UNLIMITED
from gateway.api.endpoint import Core
from gateway.config.outcome import InForce
from gateway.errors import GatewayError, Own
from gateway.routing.canaries import Canaries
from gateway.routing.catalog import Plan

STATUS, MODELS, REQUESTS, CANCEL = "status", "models", "requests", "cancel"
CANARIES, RESET = "canaries", "reset_canary"
"""What a process may be asked for."""


def unready(core: Core) -> GatewayError | None:
    """Return why the gateway can take no requests now; None if it can."""
    if core.draining:
        return GatewayError(Own.DRAINING, "the gateway is shutting down")
    if core.dispatcher.ready():
        return None
    drained = [name for name, backend in core.dispatcher.pool.backends.items() if backend.orders.drained]
    why = [f"drained by an operator: {', '.join(drained)}"] if drained else []
    flaws = core.dispatcher.flaws()
    why += [flaws] if flaws else []
    return GatewayError(Own.NO_BACKEND, "no backend is ready yet" + (f" ({'; '.join(why)})" if why else ""))


class Overview:
    """What one process answers."""

    def __init__(self, core: Core, version: str, in_force: InForce, canaries: Canaries) -> None:
        """Answer for a process of this version, which starts now.

        `in_force` is the config that it runs by, `canaries` are those of its routes.
        """
        self._core = core
        self._in_force = in_force
        self._canaries = canaries
        self._version = version
        self._started = time.time()

    async def own(self, kind: str, arguments: dict[str, Any]) -> Any:
        """Return what this process has to say, in plain JSON."""
        core = self._core
        if kind == STATUS:
            return await self._status()
        if kind == MODELS:
            return [_model(plan) for plan in core.snapshot.catalog.plans()]
        if kind == REQUESTS:
            return await running.listing(core.register, running.Wanted(**arguments))
        if kind in (CANARIES, RESET):
            now = time.monotonic()
            if kind == RESET:
                self._canaries.reset(arguments["route"], now)
            return self._canaries.told(now)
        return running.cancel(core.register, arguments["id"])

    async def _status(self) -> dict[str, Any]:
        error = unready(self._core)
        summary = await running.summary(self._core.register)
        return {
            "version": self._version,
            "config": self._in_force.version,
            "started": self._started,
            "processes": 1,
            "ready": error is None,
            "reason": "" if error is None else error.message,
            **summary,
        }


def merged(kind: str, arguments: dict[str, Any], answers: Sequence[Any]) -> Any:
    """Return what several processes have answered as one answer. There is at least one."""
    if kind == STATUS:
        return _merged_status(answers)
    if kind == MODELS:
        return _merged_models(answers)
    if kind == REQUESTS:
        return running.merged(answers, running.Wanted(**arguments).limit)
    if kind in (CANARIES, RESET):
        return _merged_canaries(answers)
    return sum(answers)


def shown_status(status: dict[str, Any], now: float) -> dict[str, Any]:
    """Return a status as operators see it at `now`, in seconds since the epoch."""
    phases, started = status["phases"], status["started"]
    targets = [
        {"model": model, "backend": backend, "requests": requests, "tokens": tokens}
        for model, backend, requests, tokens in status["targets"]
    ]
    return {
        "version": status["version"],
        "config": status["config"],
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "uptime": round(max(0.0, now - started), 1),
        "processes": status["processes"],
        "ready": status["ready"],
        "reason": status["reason"],
        "requests": sum(phases.values()),
        "phases": phases,
        "targets": targets,
    }


def _merged_status(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ready = any(each["ready"] for each in answers)
    return {
        **answers[0],
        "started": min(each["started"] for each in answers),
        "processes": sum(each["processes"] for each in answers),
        "ready": ready,
        "reason": "" if ready else answers[0]["reason"],
        **running.summed(answers),
    }


def _model(plan: Plan) -> dict[str, Any]:
    own, gate = plan.groups[0], plan.gate
    limited = gate is not None and gate.slots != UNLIMITED
    return {
        "name": own.model,
        "aliases": [name for name in own.names if name != own.model],
        "context": own.context,
        "targets": [
            {
                "backend": target.name,
                "model": target.model,
                "weight": target.share,
                "weight_now": round(target.weight, 6),
                "in_flight": int(target.metrics.in_flight.value),
            }
            for target in own.targets
        ],
        "fallbacks": [group.model for group in plan.groups[1:]],
        "queued": 0 if gate is None else gate.waiting,
        "slots": gate.slots if gate is not None and limited else None,
        "slots_held": gate.held if gate is not None and limited else None,
    }


def _merged_models(answers: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found = {model["name"]: model for model in answers[0]}
    for models in answers[1:]:
        for model in models:
            # A process may not have heard yet of a model that has come or gone.
            if (known := found.get(model["name"])) is not None:
                _add(known, model)
                known["context"] = model["context"] if known["context"] is None else known["context"]
    return list(found.values())


def _merged_canaries(answers: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for canaries in answers:
        for canary in canaries:
            total = found.setdefault(canary["route"], {**canary, "processes": []})
            total["processes"] += canary["processes"]
    return list(found.values())


def _add(total: dict[str, Any], model: dict[str, Any]) -> None:
    total["queued"] += model["queued"]
    for name in ("slots", "slots_held"):
        if total[name] is not None and model[name] is not None:
            total[name] += model[name]
    for target in total["targets"]:
        target["in_flight"] += sum(
            other["in_flight"] for other in model["targets"] if other["backend"] == target["backend"]
        )

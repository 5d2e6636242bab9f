"""`keep_alive` of Ollama's API, for the engines that this gateway starts on demand.

Rules:
- An engine that speaks Ollama's API itself gets it, and nothing is done here.
- It counts from the end of its request until another request names one, or the engine has stopped.
- Whoever asks for nothing and for no time has the engine stopped, and starts none for that. Requests under way finish.
- `pin` and `start: always` win: such an engine stays, whatever a client says.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import time_ns

import msgspec

from backends.base import Operation
from backends.dialect.members import Members
from backends.surfaces.ollama import answered, idle
from backends.surfaces.openai import JSON_HEADERS
from gateway.fleet.backend import Backend
from gateway.fleet.lease import Target
from gateway.request import Exchange, FinishedSink


class _Staying:
    """The sink of one request, which tells at its end how long the engine is to stay that has served it."""

    def __init__(self, sink: FinishedSink, seconds: float, backends: list[Backend]) -> None:
        self._sink = sink
        self._seconds = seconds
        self._backends = backends

    def finished(self, exchange: Exchange) -> None:
        self._sink.finished(exchange)
        for backend in self._backends:
            if backend.name == exchange.backend and backend.residence is not None:
                backend.residence.keep(self._seconds)


def heeded(exchange: Exchange) -> bool:
    """Take note of how long a request wants its engine to stay. Return whether it is answered, and has ended.

    Raises InvalidRequest where what it says is no duration.
    """
    groups = exchange.groups
    if groups is None:
        groups = exchange.plan.candidates.get(exchange.request.operation, ())
    backends = [target.backend for group in groups for target in group.targets]
    ours = [backend for backend in backends if _is_ours(backend)]
    seconds = idle.staying(exchange.request) if ours else None
    if seconds is None:
        return False
    if len(ours) == len(backends):
        if not seconds and idle.done_reason(exchange.request) == "unload":
            _unload(exchange, groups[0].targets)
            return True
        members = Members(exchange.request.body)
        members.drop("keep_alive")
        exchange.request = msgspec.structs.replace(exchange.request, body=members.body())
    exchange.sink = _Staying(exchange.sink, seconds, ours)
    return False


def _unload(exchange: Exchange, targets: Sequence[Target]) -> None:
    """Have the engines of a request's model stop, and answer it."""
    for target in targets:
        residence = target.backend.residence
        assert residence is not None
        residence.keep(0.0, at_once=True)
    exchange.reply(200, JSON_HEADERS, answered.unloaded(exchange.request, time_ns))
    exchange.end()


def _is_ours(backend: Backend) -> bool:
    """Tell whether the gateway decides how long an engine stays."""
    residence = backend.residence
    return (
        residence is not None
        and residence.on_demand
        and Operation.OLLAMA_CHAT not in backend.engine.operations
    )

"""What an operator sees of a backend: the answer of `GET /gateway/backends`, also between the gateway's processes.

Rules:
- It holds no secrets: no keys, no headers, no environment, no command line.
- Names here are a promise to users; a field is described once, here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from backends.base import Action, Health, Signal, Status
from gateway.config.backend import BackendConfig
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import State
from gateway.fleet.launcher import Process
from gateway.fleet.orders import Orders
from gateway.fleet.signals import Book
from gateway.residency.state import EngineState


class BackendState(enum.StrEnum):
    """Whether a backend takes requests."""

    READY = "ready"
    FLAWED = "flawed"
    """It is up, but does not tell its models, and the config does not name them: nobody can ask for one."""
    LOADING = "loading"
    ASLEEP = "asleep"
    """It takes no requests until somebody wakes it."""
    DOWN = "down"
    STOPPED = "stopped"
    """The gateway has stopped its engine, or not started it yet; it starts when a request needs it."""
    DRAINED = "drained"
    """An operator has ordered that it takes no requests, however it is."""


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class LaunchedView(_View):
    """The process of an engine that the gateway launches."""

    state: EngineState = Field(
        EngineState.STOPPED,
        description="Where it is in its life. `failed`: its last start failed, or it has died; the next request starts "
        "it anew.",
    )
    pid: int | None = Field(description="Its process id; null while it does not run.")
    restarts: int = Field(description="Times it was started again after it had run.")


class ModelView(_View):
    """A model the backend serves."""

    id: str
    context: int | None = Field(description="The longest prompt plus answer in tokens, where known.")


class SignalView(_View):
    """What the engine tells of its load, and how far it can be trusted."""

    status: Status
    value: float | None
    names: tuple[str, ...] = Field(description="What it counts, where that has names.")
    source: str = Field(description="The engine's own name for it, or why it is missing or suspect.")
    age: float | None = Field(description="Seconds since the engine told it.")


class ErrorView(_View):
    """What last went wrong at the backend."""

    message: str
    time: datetime


class OrdersView(_View):
    """What an operator has ordered for the backend."""

    drained: bool = Field(description="Whether it takes no requests.")
    drained_left: float | None = Field(
        description="Seconds until it takes requests again by itself; null: not before somebody undrains it."
    )
    weight: float = Field(description="The factor on its weight in every model.")
    weight_left: float | None = Field(
        description="Seconds until the factor is 1 again by itself; null: not before another is set."
    )


class BackendView(_View):
    """One backend as it is now."""

    name: str
    engine: str
    url: str | None = Field(description="Where it answers; null while a launched engine does not run.")
    launched: LaunchedView | None = Field(description="Only for an engine that the gateway launches.")
    state: BackendState = Field(
        description="`loading` also before the first check; `flawed` if it is up and does not tell its models; "
        "`drained` by an operator, however it is."
    )
    reason: str = Field(description="Why it is not ready, or what is wrong with its model list; else empty.")
    orders: OrdersView
    breaker: State
    in_flight: int = Field(description="The gateway's own requests there now.")
    models: tuple[ModelView, ...]
    models_age: float | None = Field(
        None, description="Seconds since the engine told its models; null where it has not."
    )
    signals: dict[Signal, SignalView]
    last_error: ErrorView | None
    labels: dict[str, str]
    actions: tuple[Action, ...] = Field(description="What it can be told to do with its models.")
    checked: str = Field(
        description="The version of the engine that the gateway's facts were checked against."
    )


def backend_view(
    settings: BackendConfig, backend: Backend, process: Process | None, book: Book, now: float, clock: float
) -> BackendView:
    """Return the view of one backend at `now`, the event loop's time; `clock` is the time of `book`."""
    error = backend.last_error
    engine = backend.engine
    return BackendView(
        name=backend.name,
        engine=engine.name,
        url=None if backend.upstream is None else backend.upstream.url,
        launched=_launched(backend, process),
        state=state_of(backend),
        reason=_reason(backend),
        orders=_orders(backend.orders, now),
        breaker=backend.breaker.state(now),
        in_flight=backend.in_flight,
        models=tuple(ModelView(id=card.id, context=card.context) for card in backend.models or ()),
        models_age=None if backend.listed.at is None else round(now - backend.listed.at, 1),
        signals={
            signal: SignalView(
                status=shown.status,
                value=shown.value,
                names=shown.names,
                source=shown.source,
                age=None if shown.age is None else round(shown.age, 1),
            )
            for signal, shown in book.shown(clock).items()
        },
        last_error=error and ErrorView(message=error.message, time=datetime.fromtimestamp(error.time, UTC)),
        labels=dict(settings.labels),
        actions=tuple(sorted(engine.actions)),
        checked=engine.checked,
    )


def state_of(backend: Backend) -> BackendState:
    """Return the state of a backend as operators see it."""
    if backend.orders.drained:
        return BackendState.DRAINED
    return _undrained(backend)


def _undrained(backend: Backend) -> BackendState:
    """Return the state that a backend has or would have if it were not drained."""
    if backend.health is Health.READY and backend.flawed:
        return BackendState.FLAWED
    return BackendState(backend.health or Health.LOADING)


def _reason(backend: Backend) -> str:
    why = backend.listed.flaw if backend.health is Health.READY else backend.reason
    if not backend.orders.drained:
        return why
    return f"an operator has drained it; else it is {_undrained(backend)}" + (f": {why}" if why else "")


def _orders(orders: Orders, now: float) -> OrdersView:
    return OrdersView(
        drained=orders.drained,
        drained_left=_left(orders.drained_until, now),
        weight=orders.weight,
        weight_left=_left(orders.weight_until, now),
    )


def _left(until: float | None, now: float) -> float | None:
    return None if until is None else round(max(0.0, until - now), 1)


def _launched(backend: Backend, process: Process | None) -> LaunchedView | None:
    if backend.residence is None:
        return None
    return LaunchedView(
        state=backend.residence.state,
        pid=process and process.pid,
        restarts=0 if process is None else process.restarts,
    )


def merged(own: Sequence[BackendView], others: Iterable[Sequence[BackendView]]) -> list[BackendView]:
    """Return several processes' views as one.

    What there is once is taken from `own`; requests, and what became of them, are taken from all processes.
    """
    found: dict[str, list[BackendView]] = {view.name: [view] for view in own}
    for views in others:
        for view in views:
            # A process may not have heard yet of a backend that has come or gone.
            if view.name in found:
                found[view.name].append(view)
    return [_one(views) for views in found.values()]


def _one(views: list[BackendView]) -> BackendView:
    errors = [view.last_error for view in views if view.last_error is not None]
    severity = list(State)
    return views[0].model_copy(
        update={
            "in_flight": sum(view.in_flight for view in views),
            "breaker": max((view.breaker for view in views), key=severity.index),
            "last_error": max(errors, key=lambda error: error.time, default=None),
        }
    )

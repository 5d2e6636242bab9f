"""The journey of one request: wait for a slot, try one backend after the other, end the request once.

Rules:
- A request waits only if it must. `_go` does everything that is possible at once. For what is missing, `_wait` waits in
  a task and then calls `_go` again. Each rule is written once, and both use it.
- No task runs while an attempt is in progress: the attempt reports its end to `attempt_over`.
- Attempts are made one after the other, within one deadline, only until the client has received content. Those after
  the first come out of a retry budget that all requests share.
- `_end` releases everything a request holds: its slots, its lease, its attempt and its share of the budget.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import Protocol

from backends.base import Failure, Health, Kind
from gateway.admission.gate import Gate
from gateway.dispatch.retry import Budget, loading_pause, may_retry
from gateway.errors import ROWS, GatewayError, Own
from gateway.fleet.lease import Lease, Target, pick
from gateway.fleet.pool import Pool
from gateway.request import Exchange
from gateway.routing.catalog import Group
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import LOAD, QUEUE, ROUTE
from gateway.wire.clocks import SECOND
from gateway.wire.heartbeat import Heartbeat
from gateway.wire.relay import Attempt

log = logging.getLogger("gateway.dispatch")


class Shared(Protocol):
    """What all journeys share, as `gateway.dispatch.dispatcher.Dispatcher` has it."""

    pool: Pool
    metrics: Metrics
    accounting: Accounting
    budget: Budget


class Journey:
    """The sequence of waits and attempts of one request."""

    __slots__ = (
        "_asked_to_wait",
        "_attempt",
        "_exchange",
        "_failure",
        "_gate",
        "_going",
        "_groups",
        "_lease",
        "_loop",
        "_model",
        "_pause",
        "_retrying",
        "_shared",
        "_slot",
        "_tried",
        "_warm_until",
    )

    def __init__(self, shared: Shared, exchange: Exchange) -> None:
        plan = exchange.plan
        self._shared: Shared = shared
        self._exchange: Exchange = exchange
        self._loop: asyncio.AbstractEventLoop = exchange.way.loop
        candidates = plan.candidates.get(exchange.request.operation, ())
        self._groups: list[Group] = [group for group in candidates if group.allowed(exchange.caller)]
        self._tried: list[Target] = []
        self._failure: Failure | None = None
        self._retrying: bool = False
        self._warm_until: float = 0.0
        self._asked_to_wait: int = 0
        self._pause: float = 0.0
        """Seconds to wait before the next attempt."""
        # The gates where the request holds a slot now: the model's, then the backend's.
        self._gate: Gate | None = None
        self._slot: Gate | None = None
        self._lease: Lease | None = None
        self._model: str = ""
        """The model whose target is leased: the requested one or a fallback."""
        self._attempt: Attempt | None = None
        self._going: bool = False

    def begin(self) -> None:
        """Start to serve the request."""
        exchange = self._exchange
        plan = exchange.plan
        exchange.work = self
        exchange.model = plan.model
        exchange.deadline = exchange.timeline.received + round(plan.total * SECOND)
        self._shared.budget.active += 1
        if plan.heartbeat and exchange.request.stream:
            exchange.beating = Heartbeat(exchange, plan.heartbeat)
        self._resume()

    def interrupt(self, error: Exception) -> None:
        """End the request with `error`, and then its task. See `gateway.request.Work`."""
        exchange = self._exchange
        task, exchange.task = exchange.task, None
        self._end(error)
        if task is not None:
            # Last, and not relied on: a task that is cancelled before its first step never runs at all.
            task.cancel()

    def attempt_over(self, attempt: Attempt) -> None:
        """End the request or continue with the next attempt, because this one is over."""
        try:
            again = self._settle(attempt)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            self._end(error)
            return
        if not again:
            self._end(None)
        elif not self._going and self._exchange.task is None:
            self._resume()

    def _resume(self) -> None:
        """Continue the request, in a task if something has to be waited for."""
        try:
            under_way = self._go()
        except Exception as error:  # noqa: BLE001 (as above)
            self._end(error)
            return
        if not under_way:
            self._exchange.task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        """Wait, as the request's task, until an attempt is in progress or the request has ended."""
        try:
            await self._wait()
        except asyncio.CancelledError:
            self._end(GatewayError(Own.DRAINING, "the gateway is shutting down"))
        except Exception as error:  # noqa: BLE001 (as above)
            self._end(error)
        else:
            self._exchange.task = None

    # choosing a backend

    def _go(self) -> bool:
        """Do what is possible now. Return True if an attempt runs or the request has ended, False if it must wait."""
        exchange = self._exchange
        self._going = True
        try:
            while not exchange.over:
                attempt = self._attempt
                if attempt is None:
                    if self._pause or not (self._passed_gate() and self._chosen() and self._has_slot()):
                        return False
                    if self._has_moved_away():
                        continue
                    attempt = self._new_attempt()
                if not attempt.begin():
                    return False
                if self._attempt is attempt:
                    return True
            return True
        finally:
            self._going = False

    async def _wait(self) -> None:
        """Wait for each thing that `_go` finds missing, until it returns True."""
        timeline = self._exchange.timeline
        while not self._go():
            attempt = self._attempt
            if attempt is not None:
                await attempt.connect()
                if self._attempt is attempt:
                    return
            elif self._pause:
                pause, self._pause = self._pause, 0.0
                timeline.mark(LOAD)
                await asyncio.sleep(pause)
            elif not self._passed_gate():
                gate = self._exchange.plan.gate
                assert gate is not None
                await self._queue(gate)
                self._gate = gate
            elif self._lease is None:
                await self._load()
            else:
                gate = self._lease.target.backend.gate
                assert gate is not None
                await self._queue(gate)
                self._slot = gate
            timeline.mark(ROUTE)

    def _passed_gate(self) -> bool:
        """Take a free slot of the model, unless one is held. Return whether one is held or none is needed."""
        gate = self._exchange.plan.gate
        if gate is None or self._gate is not None:
            return True
        if not gate.try_enter():
            return False
        self._gate = gate
        return True

    def _chosen(self, last_resort: bool = False) -> bool:
        """Lease a backend that can be used now, unless one is leased. Return whether one is leased."""
        if self._lease is not None:
            return True
        now = self._loop.time()
        for group in self._groups:
            lease = pick(group.targets, group.balancer, now, self._tried, last_resort)
            if lease is not None:
                self._lease, self._model = lease, group.model
                return True
        return False

    def _has_slot(self) -> bool:
        """Take a free slot of the leased backend, unless one is held. Return whether one is held or none is needed."""
        assert self._lease is not None
        gate = self._lease.target.backend.gate
        if gate is None or self._slot is not None:
            return True
        if not gate.try_enter():
            return False
        self._slot = gate
        return True

    def _has_moved_away(self) -> bool:
        """Release the lease if the backend has lost its location since it was chosen. Return whether that is so."""
        assert self._lease is not None
        if self._lease.target.backend.upstream is not None:
            return False
        self._give_back_lease()
        return True

    async def _queue(self, gate: Gate) -> None:
        """Wait for a slot of a gate, and take it. Raises GatewayError if none is free in time."""
        exchange = self._exchange
        exchange.timeline.mark(QUEUE)
        queued = self._shared.metrics.queued.cell(exchange.plan.model)
        queued.value += 1
        try:
            await gate.enter(min(self._deadline(), self._loop.time() + exchange.plan.queue))
        finally:
            queued.value -= 1

    async def _load(self) -> None:
        """Wait while backends are loading, then lease one. Raises GatewayError if none can be used."""
        exchange = self._exchange
        model = exchange.plan.model
        if not self._groups:
            # Only a fallback model can do this operation, and the caller's key may not use that model.
            message = f"no backend of the model {model!r} can do '{exchange.request.operation}'"
            raise GatewayError(Kind.UNSUPPORTED, message, param="model")
        if self._failure is None or self._failure.kind is Kind.LOADING:
            exchange.timeline.mark(LOAD)
            await self._shared.pool.warm(self._targets(), self._patience())
        if self._chosen() or self._chosen(last_resort=True):
            return
        if self._failure is not None:
            raise GatewayError.of(self._failure)
        raise GatewayError(Own.NO_BACKEND, f"no backend of the model {model!r} is up", retry_after=5)

    def _targets(self) -> list[Target]:
        """Return every target that may serve the request."""
        return [target for group in self._groups for target in group.targets]

    def _deadline(self) -> float:
        """Return the loop time at which the request must have ended."""
        return self._loop.time() + (self._exchange.deadline - perf_counter_ns()) / SECOND

    def _patience(self) -> float:
        """Return the loop time until which to wait for loading models; it is fixed at the first call."""
        if not self._warm_until:
            self._warm_until = min(self._deadline(), self._loop.time() + self._exchange.plan.queue)
        return self._warm_until

    # attempts

    def _new_attempt(self) -> Attempt:
        exchange, lease = self._exchange, self._lease
        assert lease is not None
        target = lease.target
        backend = target.backend
        exchange.attempts += 1
        exchange.backend = backend.name
        self._tried.append(target)
        headers = (
            (b"x-gateway-backend", backend.label),
            (b"x-gateway-model", self._model.encode()),
            (b"x-gateway-attempts", b"%d" % exchange.attempts),
        )
        attempt = self._attempt = Attempt(exchange, target, self, headers)
        return attempt

    def _settle(self, attempt: Attempt) -> bool:
        """Account for an attempt that is over. Return whether another follows; raise what ends the request, if any."""
        timeline = self._exchange.timeline
        if attempt.stale:
            attempt.renew()
            timeline.mark(ROUTE)
            return True
        lease = self._lease
        assert lease is not None
        target, failure = lease.target, attempt.failure
        self._give_back_lease()
        if attempt.crash is not None:
            raise attempt.crash
        if failure is None:
            return False
        timeline.mark(ROUTE)
        self._report(target, failure)
        if attempt.committed:
            raise GatewayError.of(failure)
        self._failure = failure
        self._require_another(target, failure)
        return True

    def _give_back_lease(self) -> None:
        """Release the lease and the backend's slot, and count the attempt if one was made."""
        lease, attempt = self._lease, self._attempt
        if self._slot is not None:
            self._slot.leave()
        self._lease = self._attempt = self._slot = None
        if lease is None:
            return
        now = self._loop.time()
        if attempt is None:
            lease.close(None, False, now)
            return
        lease.close(attempt.failure, attempt.complete, now)
        target = lease.target
        self._shared.accounting.attempted(self._exchange, target.backend.name, target.metrics, attempt)

    def _require_another(self, target: Target, failure: Failure) -> None:
        """Prepare another attempt after `failure`; raise it as a GatewayError if none may follow."""
        exchange, budget = self._exchange, self._shared.budget
        if failure.kind is Kind.LOADING and self._loop.time() < self._patience():
            # A loading backend is healthy and will answer soon: do not count the attempt, and allow waiting for it.
            target.backend.note(Health.LOADING, "its model is loading")
            self._tried.remove(target)
            exchange.attempts -= 1
            self._let_load()
            return
        left = (exchange.deadline - perf_counter_ns()) / SECOND
        if not may_retry(failure, exchange.attempts, exchange.plan.attempts, left):
            raise GatewayError.of(failure)
        self._retrying = self._retrying or budget.take()
        if not self._retrying:
            raise GatewayError.of(failure)
        if failure.kind is Kind.LOADING:
            self._let_load()

    def _let_load(self) -> None:
        """Pause before the next attempt, longer each time, unless another backend is usable."""
        # The backend's probe may report that it is ready although it answers that it is loading.
        self._asked_to_wait += 1
        if not any(target.backend.usable and target not in self._tried for target in self._targets()):
            left = max(0.0, self._patience() - self._loop.time())
            self._pause = loading_pause(self._asked_to_wait, left)

    def _report(self, target: Target, failure: Failure) -> None:
        """Log the details that the client is not told. A client's own error is not logged: its message quotes it."""
        expected = failure.kind is Kind.LOADING and self._asked_to_wait
        if expected or ROWS[failure.kind].outcome == "client_error":
            return
        detail = f" ({failure.detail})" if failure.detail and failure.detail != failure.message else ""
        log.warning(
            "backend '%s': %s%s [%s, %s, request %s]",
            target.backend.name,
            failure.message,
            detail[:300],
            failure.kind,
            failure.phase or "-",
            self._exchange.name,
        )

    # ending the request

    def _end(self, error: Exception | None) -> None:
        """Release everything the request holds, and end it."""
        exchange = self._exchange
        if exchange.over:
            return
        if self._attempt is not None:
            self._attempt.drop()
        self._give_back_lease()
        if self._gate is not None:
            self._gate.leave()
        budget = self._shared.budget
        if self._retrying:
            budget.give_back()
        budget.active -= 1
        exchange.end(error)

"""The journey of one request: wait for a slot, try one backend after the other, end the request once.

Rules:
- Nothing waits that has not to. `_go` does all that can be done at once; what it finds missing, `_wait` waits for in a
  task, and then lets `_go` try again. Both run the same rules, since there is only one of each.
- No task stays while an attempt is under way: it reports its end by `attempt_over`.
- Attempts come one after the other, only until the client has received content, all inside one deadline, and beyond
  the first only out of a budget that all requests share.
- Everything that a request holds, its slots, its lease, its attempt and its share of the budget, is given back in
  `_end`.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import Final, Protocol

from backends.base import Failure, Health, Kind
from gateway.admission.gate import Gate
from gateway.dispatch.retry import Budget, may_retry
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

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Seconds until a backend that said it was loading is asked once more; it doubles each time."""


class Shared(Protocol):
    """What all journeys share: `gateway.dispatch.dispatcher.Dispatcher`."""

    pool: Pool
    metrics: Metrics
    accounting: Accounting
    budget: Budget


class Journey:
    """The attempts of one request."""

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
        self._gate: Gate | None = None
        """The model's gate, once it has been passed, and the backend's."""
        self._slot: Gate | None = None
        self._lease: Lease | None = None
        self._model: str = ""
        """The model whose target the lease is for: the one that was asked for, or a fallback."""
        self._attempt: Attempt | None = None
        self._going: bool = False

    def begin(self) -> None:
        """Set out."""
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
        """Give up: the client left, or the gateway stops. Called where no task runs for the request."""
        self._end(error)

    def attempt_over(self, attempt: Attempt) -> None:
        """Hear that the attempt is over: end the request, or go on to the next attempt."""
        try:
            again = self._settle(attempt)
        except Exception as error:  # noqa: BLE001 (whatever it is ends this request and no other)
            self._end(error)
            return
        if not again:
            self._end(None)
        elif not self._going and self._exchange.task is None:
            self._resume()

    def _resume(self) -> None:
        """Go on, in a task if something has to be waited for."""
        try:
            under_way = self._go()
        except Exception as error:  # noqa: BLE001 (as above)
            self._end(error)
            return
        if not under_way:
            task = self._exchange.task = self._loop.create_task(self._run())
            task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        """End the request if its task was cancelled, perhaps before it began: nothing of `_run` has run then."""
        if task.cancelled():
            stopped = GatewayError(Own.DRAINING, "the gateway is shutting down")
            self._end(self._exchange.interrupted or stopped)

    async def _run(self) -> None:
        """Wait until an attempt is under way."""
        try:
            await self._wait()
        except Exception as error:  # noqa: BLE001 (as above)
            self._end(error)
        else:
            self._exchange.task = None

    # going

    def _go(self) -> bool:
        """Do all that can be done now. Return True if an attempt is under way, or the request is over; False if there
        is something to wait for."""
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
        """Wait for one thing after the other that `_go` finds missing."""
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
        """Tell whether the request has a slot of its model, after taking one that is free."""
        gate = self._exchange.plan.gate
        if gate is None or self._gate is not None:
            return True
        if not gate.try_enter():
            return False
        self._gate = gate
        return True

    def _chosen(self, last_resort: bool = False) -> bool:
        """Tell whether there is a lease on a backend, after choosing one that can be used now."""
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
        """Tell whether the backend takes the request now, after taking a slot that is free where it has only some."""
        assert self._lease is not None
        gate = self._lease.target.backend.gate
        if gate is None or self._slot is not None:
            return True
        if not gate.try_enter():
            return False
        self._slot = gate
        return True

    def _has_moved_away(self) -> bool:
        """Tell whether the backend has lost its location while its slot was waited for, after giving back the lease."""
        assert self._lease is not None
        if self._lease.target.backend.upstream is not None:
            return False
        self._give_back_lease()
        return True

    async def _queue(self, gate: Gate) -> None:
        """Wait at a gate; afterwards a slot is held. Raises GatewayError where none comes in time."""
        exchange = self._exchange
        exchange.timeline.mark(QUEUE)
        queued = self._shared.metrics.queued.cell(exchange.plan.model)
        queued.value += 1
        try:
            await gate.enter(min(self._deadline(), self._loop.time() + exchange.plan.queue))
        finally:
            queued.value -= 1

    async def _load(self) -> None:
        """Wait for what is loading, then take what there is. Raises GatewayError where nothing can be used."""
        exchange = self._exchange
        model = exchange.plan.model
        if not self._groups:
            # Another model stands in for this one here, which the key may not use.
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
        """Every target that may serve the request."""
        return [target for group in self._groups for target in group.targets]

    def _deadline(self) -> float:
        """The loop time at which the request must be over."""
        return self._loop.time() + (self._exchange.deadline - perf_counter_ns()) / SECOND

    def _patience(self) -> float:
        """Until which loop time to wait for models that load: once in all, however often a backend says so."""
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
        """Account for an attempt that is over. Return True if the request goes on, False if it has its answer; raise
        what ends it otherwise."""
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
        """Release the lease and the backend's slot, and count the attempt if there was one."""
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
        """Return if there may be another attempt after `failure`; raise it as a GatewayError if not."""
        exchange, budget = self._exchange, self._shared.budget
        if failure.kind is Kind.LOADING and self._loop.time() < self._patience():
            # It answers, only not yet: that was no attempt, and it may be waited for.
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
        """A backend may say that it loads though its probe says that it is ready: it is asked ever more seldom then."""
        self._asked_to_wait += 1
        if not any(target.backend.usable and target not in self._tried for target in self._targets()):
            left = max(0.0, self._patience() - self._loop.time())
            self._pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._asked_to_wait, left)

    def _report(self, target: Target, failure: Failure) -> None:
        """Tell the operator what a client is told only in part. A client's own mistake is no news, and quotes it."""
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

    # the end

    def _end(self, error: Exception | None) -> None:
        """Give everything back, and end the request."""
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

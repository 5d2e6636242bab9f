"""The journey of one request: wait for a slot, try one backend after the other, end the request once.

Rules:
- A request waits only if it must. `_go` does everything that is possible at once. For what is missing, `_wait` waits in
  a task and then calls `_go` again. Each rule is written once, and both use it.
- No task runs while an attempt is in progress: the attempt reports its end to `attempt_over`.
- Attempts are made one after the other, within one deadline, only until the client has received content. Those after
  the second come out of a retry budget that all requests share. A slow one may have another beside it
  (`gateway.dispatch.hedge`).
- A stream that ends before its first content and without a reason costs the engine one short question more
  (`gateway.dispatch.inquiry`), before anything follows from it.
- Where a request may go is decided in `gateway.dispatch.candidates`, what follows from a failure in
  `gateway.dispatch.failures`.
- While it waits for a slot, a request holds no backend: it takes the first one that becomes free.
- `_end` releases everything a request holds: its slots, its lease, its attempt and its share of the budget.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Final

from backends.base import Failure, Kind, Operation
from gateway.admission.gate import Gate
from gateway.dispatch.blame import fell_silent, fingerprint
from gateway.dispatch.candidates import Candidates
from gateway.dispatch.charges import Charges, charged
from gateway.dispatch.failures import Failures
from gateway.dispatch.hedge import Race
from gateway.dispatch.inquiry import reason
from gateway.dispatch.shared import Shared, waited
from gateway.errors import GatewayError, Own
from gateway.fleet.lease import Lease
from gateway.request import Exchange
from gateway.telemetry.timeline import LOAD, ROUTE
from gateway.wire.clocks import SECOND
from gateway.wire.heartbeat import Heartbeat
from gateway.wire.relay import Attempt
from gateway.wire.tunnel import Tunnel

_WORTH_WAITING: Final = frozenset((Kind.LOADING, Kind.CONNECT))
"""Failures after which a backend that is being started is waited for."""


class Journey:
    """The sequence of waits and attempts of one request."""

    __slots__ = (
        "_attempt",
        "_candidates",
        "_charges",
        "_exchange",
        "_failures",
        "_gate",
        "_going",
        "_lease",
        "_loop",
        "_race",
        "_shared",
        "_warm_until",
    )

    def __init__(self, shared: Shared, exchange: Exchange) -> None:
        plan = exchange.plan
        self._shared: Shared = shared
        self._exchange: Exchange = exchange
        self._loop: asyncio.AbstractEventLoop = exchange.way.loop
        groups = exchange.groups
        if groups is None:
            groups = plan.candidates.get(exchange.request.operation, ())
        self._candidates: Candidates = Candidates(groups, plan.attempts, exchange.asked)
        self._failures: Failures | None = None
        self._warm_until: float = 0.0
        self._gate: Gate | None = None
        """The gate of the model, while the request holds a slot of it."""
        self._charges: Charges | None = None
        """What the request is to be charged with, if it waited for a slot."""
        self._lease: Lease | None = None
        self._attempt: Attempt | None = None
        self._race: Race | None = None
        """What may set a second attempt beside the first; None where the model is not hedged."""
        self._going: bool = False

    def begin(self) -> None:
        """Start to serve the request."""
        exchange = self._exchange
        plan = exchange.plan
        exchange.work = self
        exchange.model = plan.model
        exchange.deadline = exchange.timeline.received + round(plan.total * SECOND)
        self._shared.budget.active += 1
        quarantine = self._shared.quarantine
        if quarantine.deaths:
            refusal = quarantine.refusal(fingerprint(exchange), self._loop.time())
            if refusal is not None:
                self._end(refusal)
                return
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

    def answer_began(self) -> None:
        """Take note of the first content of the answer."""
        lease = self._lease
        assert lease is not None
        now = self._loop.time()
        lease.heard(now)
        attempt = self._attempt
        if self._race is not None and attempt is not None:
            self._race.began(attempt)
        if self._failures is not None and attempt is not None and not attempt.gathers:
            # What is gathered may still fail and be tried elsewhere: only its end tells whether it was served.
            self._failures.blame.answered(now)

    def attempt_over(self, attempt: Attempt) -> None:
        """End the request or continue with the next attempt, because this one is over."""
        if self._race is not None and self._race.goes_on_without(attempt):
            return
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
                    if self._must_pause or not (self._passed_gate() and self._chosen()):
                        return False
                    if self._has_moved_away():
                        continue
                    attempt = self._new_attempt()
                if attempt.unexplained or not attempt.begin():
                    return False
                if self._attempt is attempt:
                    return True
            return True
        finally:
            self._going = False

    @property
    def _must_pause(self) -> bool:
        """Whether the next attempt is to come later, because a backend is loading."""
        return self._failures is not None and self._failures.pause > 0

    async def _wait(self) -> None:
        """Wait for each thing that `_go` finds missing, until it returns True."""
        timeline = self._exchange.timeline
        while not self._go():
            attempt = self._attempt
            if attempt is not None and attempt.unexplained:
                if not await self._explained(attempt):
                    self._end(None)
            elif attempt is not None:
                await attempt.connect()
                if self._attempt is attempt:
                    return
            elif (failures := self._failures) is not None and failures.pause:
                pause, failures.pause = failures.pause, 0.0
                timeline.mark(LOAD)
                await asyncio.sleep(pause)
            elif not self._passed_gate():
                gate = self._exchange.plan.gate
                assert gate is not None
                until = self._loop.time() + self._exchange.plan.queue
                place = await self._shared.queue(self._exchange, (gate,), min(self._deadline(), until))
                self._gate, self._charges = gate, charged(self._charges, place)
            else:
                gates = self._candidates.gates(self._loop.time())
                if gates:
                    await self._wait_for_slot(gates)
                else:
                    await self._load()
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
        if self._lease is None:
            self._lease = self._candidates.pick(self._loop.time(), last_resort)
        return self._lease is not None

    async def _wait_for_slot(self, gates: list[Gate]) -> None:
        """Wait until one of the gates has a free slot, and lease a backend with it; or until that took too long."""
        try:
            place = await self._shared.queue(self._exchange, gates, self._patience())
        except GatewayError as error:
            self._candidates.waited_out = error
            return
        self._lease = self._candidates.pick_with_slot(place.gate, self._loop.time())
        if self._lease is None:
            place.leave()
        else:
            self._charges = charged(self._charges, place, backend=True)

    def _has_moved_away(self) -> bool:
        """Release the lease if the backend has lost its location since it was chosen. Return whether that is so."""
        assert self._lease is not None
        if self._lease.target.backend.upstream is not None:
            return False
        self._candidates.forget(self._lease.target)
        self._give_back_lease()
        return True

    async def _load(self) -> None:
        """Wait while backends are loading, then lease one. Raises GatewayError if none can be used."""
        failures, candidates = self._failures, self._candidates
        if await self._shared.fetched(self._exchange, candidates, self._patience()):
            return
        failure = None if failures is None else failures.last
        if failure is None or failure.kind in _WORTH_WAITING:
            self._exchange.timeline.mark(LOAD)
            if self._loop.time() < self._patience():
                candidates.forgive_restarting()
            await self._shared.warm(self._exchange, candidates.untried(), self._patience(), self._deadline())
        if candidates.unloaded() or self._chosen() or self._chosen(last_resort=True):
            return
        if failures is not None and failure is not None:
            raise failures.error(failure)
        raise candidates.error(self._exchange.plan.model)

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
        exchange.backend, exchange.engine = backend.name, backend.engine.name
        exchange.served = self._candidates.model
        plan, headers = exchange.plan, waited(exchange, self._candidates.headers(backend, exchange))
        made = Tunnel if exchange.request.operation is Operation.REALTIME else Attempt
        attempt = self._attempt = made(exchange, target, self, headers)
        if made is Attempt and plan.hedging is not None and plan.model == self._candidates.model:
            if self._race is None:
                self._race = Race(self._shared, exchange, self._candidates, self)
            self._race.watch(attempt, target)
        return attempt

    def switch(self, attempt: Attempt, lease: Lease) -> Lease:
        """Go on with an attempt and its lease instead of those so far. Return the lease so far, which is closed."""
        former = self._lease
        assert former is not None and self._attempt is not None
        self._attempt.drop()
        self._give_back_lease()
        self._attempt, self._lease = attempt, lease
        self._exchange.backend, self._exchange.engine = lease.target.name, lease.target.backend.engine.name
        return former

    def charge(self, lease: Lease, attempt: Attempt, failure: Failure) -> None:
        """Take what the failure of an attempt beside the one that goes on says. Its lease is closed."""
        self._failed().charge(lease, attempt, failure)

    def _settle(self, attempt: Attempt) -> bool:
        """Account for an attempt that is over. Return whether another follows; raise what ends the request, if any."""
        timeline = self._exchange.timeline
        if attempt.stale:
            attempt.renew()
            self._shared.metrics.requests.retries.cell(self._exchange.model, "stale").value += 1
            timeline.mark(ROUTE)
            return True
        return attempt.unexplained or self._concluded(attempt)

    async def _explained(self, attempt: Attempt) -> bool:
        """Ask the engine of an attempt that is over for the reason, then go on as `_settle` does."""
        assert self._lease is not None
        left = self._deadline() - self._loop.time()
        attempt.explain(await reason(attempt.request, self._lease.target, left))
        return self._concluded(attempt)

    def _concluded(self, attempt: Attempt) -> bool:
        """Account for an attempt of which all is known; as `_settle`."""
        timeline = self._exchange.timeline
        lease = self._lease
        assert lease is not None
        failure = attempt.failure
        self._give_back_lease()
        if attempt.crash is not None:
            raise attempt.crash
        now = self._loop.time()
        if failure is None:
            if attempt.complete:
                lease.succeeded(now)
                if self._race is not None:
                    self._race.began(attempt)
                if self._failures is not None:
                    self._failures.blame.answered(now)
            return False
        timeline.mark(ROUTE)
        if failure.kind is Kind.MISSING and self._candidates.lost(lease.target):
            return True
        error = self._failed().follows(lease, attempt, failure, self._patience)
        if error is not None:
            raise error
        return True

    def _failed(self) -> Failures:
        """Return the failures of this request, because there is one now."""
        if self._failures is None:
            self._failures = Failures(self._shared, self._exchange, self._candidates)
        return self._failures

    def _give_back_lease(self) -> None:
        """Release the lease, and count the attempt if one was made."""
        lease, attempt = self._lease, self._attempt
        self._lease = self._attempt = None
        if lease is None:
            return
        if self._charges is not None:
            self._charges.attempted(attempt)
        if self._race is not None:
            self._race.rest()
        lease.close(self._loop.time(), attempt is not None and fell_silent(attempt.failure))
        if attempt is not None:
            self._shared.accounting.attempted(self._exchange, lease.target.metrics, attempt)

    # ending the request

    def _end(self, error: Exception | None) -> None:
        """Release everything the request holds, and end it."""
        exchange = self._exchange
        if exchange.over:
            return
        if self._race is not None:
            self._race.stop()
            self._race = None
        if self._attempt is not None:
            self._attempt.drop()
        self._give_back_lease()
        if self._charges is not None:
            self._charges.over()
        if self._gate is not None:
            self._gate.leave()
        if self._failures is not None:
            self._failures.close(self._loop.time())
        self._shared.budget.active -= 1
        exchange.end(error)

"""The second attempt of a slow request, at another backend of the same model: the first to answer serves.

Rules:
- It begins only while nothing of the first one's answer has come, within the model's budget
  (`gateway.balance.hedging`), and only at a backend that is up and has no queue. A request has at most one.
- Whichever attempt has content first goes on alone (`gateway.wire.relay` asks before it passes anything on); the other
  is dropped, and its connection closed, in the same turn. That says nothing of its backend.
- If one of them fails, the other goes on, and the failure is charged as any other. If both fail, the request goes on
  from the last failure as it would without a second attempt.
- While both run, the hops of the request are those of the first one.
- Each of the two has its own lease, closed once. The journey owns the attempt that is left; a race owns the second.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Protocol

from backends.base import Failure, Headers, Kind
from gateway.balance.hedging import Hedging
from gateway.dispatch.blame import fell_silent, report
from gateway.dispatch.candidates import Candidates
from gateway.dispatch.shared import Shared
from gateway.fleet.lease import Lease, Target
from gateway.request import Exchange
from gateway.wire.clocks import SECOND
from gateway.wire.relay import Attempt, Listener

_WON: Headers = ((b"x-gateway-hedged", b"won"),)
_LOST: Headers = ((b"x-gateway-hedged", b"lost"),)


class Runner(Listener, Protocol):
    """The journey of the request."""

    def switch(self, attempt: Attempt, lease: Lease) -> Lease:
        """Go on with an attempt and its lease instead of those so far. Return the lease so far, which is closed."""

    def charge(self, lease: Lease, attempt: Attempt, failure: Failure) -> None:
        """Take what the failure of an attempt beside the one that goes on says. Its lease is closed."""

    def interrupt(self, error: Exception) -> None:
        """End the request with `error`."""


class Race:
    """The attempts of one request of a model that is hedged."""

    __slots__ = (
        "_candidates",
        "_exchange",
        "_first",
        "_hedging",
        "_journey",
        "_lease",
        "_measured",
        "_second",
        "_shared",
        "_target",
        "_task",
        "_timer",
        "_wait",
    )

    def __init__(self, shared: Shared, exchange: Exchange, candidates: Candidates, journey: Runner) -> None:
        """Count the request in its model's budget."""
        hedging = exchange.plan.hedging
        assert hedging is not None
        request = exchange.request
        self._shared: Shared = shared
        self._exchange: Exchange = exchange
        self._candidates: Candidates = candidates
        self._journey: Runner = journey
        self._hedging: Hedging = hedging
        self._wait: float | None = hedging.wait(request.operation.value, request.stream)
        """Seconds after which a second attempt may begin; None for none."""
        self._measured: bool = False
        self._first: Attempt | None = None
        self._target: Target | None = None
        self._second: Attempt | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # the attempt of the journey

    def watch(self, attempt: Attempt, target: Target) -> None:
        """Begin a second attempt if nothing of this one's answer has come in time."""
        self._first, self._target = attempt, target
        if self._wait is not None:
            self._set_timer(self._wait)

    def began(self, attempt: Attempt) -> None:
        """Take note that the answer has begun."""
        self.rest()
        self._measure(attempt)

    def rest(self) -> None:
        """Watch no attempt any more."""
        self._first = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def goes_on_without(self, attempt: Attempt) -> bool:
        """Go on with the second attempt, because the journey's has failed. Return False if there is none."""
        second, lease, target = self._second, self._lease, self._target
        failure = attempt.failure
        if second is None or lease is None or target is None or failure is None or attempt.crash is not None:
            return False
        stale = attempt.stale
        if stale:
            # The engine has not received it, so nothing was tried.
            attempt.renew()
            self._candidates.forget(target)
        self._settle("won")
        closed = self._journey.switch(second, lease)
        second.lead(self._journey, _WON)
        if not stale:
            self._charge(closed, attempt, failure)
        return True

    def stop(self) -> None:
        """Drop the second attempt if it runs, because the request is over."""
        self.rest()
        if self._second is not None:
            self._drop_second("cancelled")
        if self._task is not None:
            self._task.cancel()

    # the timer

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._exchange.way.loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        """Begin the second attempt now, or later if the first one was sent late or a task still sees to it."""
        self._timer = None
        first, wait = self._first, self._wait
        if first is None or wait is None or not first.silent:
            return
        left = wait
        if first.sent_at and self._exchange.task is None:
            left -= (perf_counter_ns() - first.sent_at) / SECOND
        if left > 0.001:
            self._set_timer(left)
            return
        try:
            self._begin(first)
        except Exception as error:  # noqa: BLE001 (a bug of an adapter ends its request)
            self._journey.interrupt(error)

    def _begin(self, first: Attempt) -> None:
        exchange, target = self._exchange, self._target
        loop = exchange.way.loop
        if target is None or not self._hedging.may:
            return
        lease = self._candidates.pick_beside(target, loop.time())
        if lease is None:
            return
        self._hedging.take()
        self._wait = None
        exchange.attempts += 1
        headers = self._candidates.headers(lease.target.backend, exchange)
        second = Attempt(exchange, lease.target, self, headers)
        self._second, self._lease = second, lease
        first.contest = self
        second.stand_beside(self)
        if not second.begin():
            self._connect(second)

    def _connect(self, second: Attempt) -> None:
        self._task = self._exchange.way.loop.create_task(self._connected(second))

    async def _connected(self, second: Attempt) -> None:
        try:
            await second.connect()
        except Exception as error:  # noqa: BLE001 (as above)
            self._journey.interrupt(error)

    # gateway.wire.relay.Contest and Listener

    def won(self, attempt: Attempt) -> None:
        """Drop the other attempt, because this one answers."""
        second, lease, first, target = self._second, self._lease, self._first, self._target
        if second is None or lease is None or first is None or target is None:
            return
        if attempt is second:
            self._measure(first)
            self._settle("won")
            self._candidates.forget(target)
            self._journey.switch(second, lease)
            second.lead(self._journey, _WON)
        else:
            self._candidates.forget(lease.target)
            self._drop_second("lost")
            first.lead(self._journey, _LOST)

    def answer_began(self) -> None:
        """Do nothing: the attempt that answers has the journey for its listener by then."""

    def attempt_over(self, attempt: Attempt) -> None:
        """Leave the request to the first attempt, because the second one has failed."""
        first, lease, failure = self._first, self._lease, attempt.failure
        if first is None or lease is None or attempt is not self._second:
            return
        if attempt.stale:
            attempt.renew()
            self._connect(attempt)
            return
        self._settle("failed")
        self._give_back(attempt, lease)
        if attempt.crash is not None:
            self._journey.interrupt(attempt.crash)
            return
        first.lead(self._journey)
        if failure is not None:
            self._charge(lease, attempt, failure)

    # ending

    def _drop_second(self, result: str) -> None:
        second, lease = self._second, self._lease
        assert second is not None and lease is not None
        second.drop()
        self._settle(result)
        if self._task is not None:
            self._task.cancel()
        self._give_back(second, lease)

    def _settle(self, result: str) -> None:
        """Count what became of the second attempt; there is a choice between two no more."""
        for attempt in (self._first, self._second):
            if attempt is not None:
                attempt.contest = None
        self._second = self._lease = None
        self._shared.metrics.routes.hedges.cell(self._exchange.model, result).value += 1

    def _give_back(self, attempt: Attempt, lease: Lease) -> None:
        """Release the lease of the second attempt and count it."""
        lease.close(self._exchange.way.loop.time(), fell_silent(attempt.failure))
        self._shared.accounting.attempted(self._exchange, lease.target.metrics, attempt)

    def _charge(self, lease: Lease, attempt: Attempt, failure: Failure) -> None:
        """Charge the failure of one attempt while the other one goes on."""
        self._journey.charge(lease, attempt, failure)
        if failure.kind in (Kind.CONNECT, Kind.UNRESOLVED):
            self._candidates.unreached(lease.target)
        report(self._exchange, lease.target, failure, "goes on")
        self._shared.metrics.requests.failovers.cell(lease.target.name, failure.kind.value).value += 1

    def _measure(self, attempt: Attempt) -> None:
        """Take note of how long the first attempt took, or has waited in vain. Later ones are not counted."""
        if not self._measured and attempt.sent_at:
            self._measured = True
            request = self._exchange.request
            waited = (perf_counter_ns() - attempt.sent_at) / SECOND
            self._hedging.observe(request.operation.value, request.stream, waited)

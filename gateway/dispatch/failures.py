"""The failures of one request's attempts: what each of them speaks against, and whether another attempt follows.

Rules:
- Nothing here is used for a request that does not fail: its object is made on the first failure.
- What a failure says is decided in `gateway.dispatch.blame`, whether a retry is worthwhile in `gateway.dispatch.retry`.
- A backend that answers that it is loading is asked again, after a pause that grows, for as long as the request may
  wait. That is no attempt.
- A prompt that is too long for a model goes on to those of its fallbacks that are known to take longer ones.
- `close` gives back what the request holds of the retry budget.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from backends.base import Failure, Health, Kind
from gateway.dispatch.blame import Blame, report
from gateway.dispatch.candidates import Candidates
from gateway.dispatch.retry import loading_pause, may_retry
from gateway.dispatch.shared import Shared
from gateway.errors import GatewayError
from gateway.fleet.lease import Lease, Target
from gateway.request import Exchange
from gateway.wire.clocks import SECOND
from gateway.wire.relay import Attempt

_UNSENT = (Kind.REJECTED, Kind.UNSUPPORTED)
"""What an attempt of which nothing was sent has failed with if the gateway could not say the request to the engine."""


class Failures:
    """The failures of one request so far."""

    __slots__ = (
        "_asked_to_wait",
        "_candidates",
        "_exchange",
        "_retrying",
        "_shared",
        "blame",
        "last",
        "pause",
    )

    def __init__(self, shared: Shared, exchange: Exchange, candidates: Candidates) -> None:
        self._shared: Shared = shared
        self._exchange: Exchange = exchange
        self._candidates: Candidates = candidates
        self._retrying: bool = False
        """Whether the request has its share of the retry budget."""
        self._asked_to_wait: int = 0
        self.blame: Blame = Blame(exchange, shared.quarantine)
        self.last: Failure | None = None
        """The last failure after which another attempt could follow."""
        self.pause: float = 0.0
        """Seconds to wait before that attempt."""

    def charge(self, lease: Lease, attempt: Attempt, failure: Failure) -> None:
        """Take what the failure of an attempt says of its backend and of the request. The lease is closed."""
        now = self._exchange.way.loop.time()
        self.blame.failed(lease, failure, attempt.sent_at, now)
        lease.trouble(failure, now)

    def follows(
        self, lease: Lease, attempt: Attempt, failure: Failure, patience: Callable[[], float]
    ) -> GatewayError | None:
        """Take the failure of an attempt whose lease is closed, and prepare another attempt.

        Return the error that ends the request if none may follow. `patience` returns the loop's time until which the
        request may wait for models that are loading.
        """
        self.charge(lease, attempt, failure)
        # A backend that says again that it is loading is no news.
        known = failure.kind is Kind.LOADING and self._asked_to_wait > 0
        if attempt.committed or self.blame.own:
            error: GatewayError | None = self.error(failure)
        else:
            self.last = failure
            error = self._another_or_error(lease.target, failure, patience)
        if error is not None and not attempt.sent_at and failure.kind in _UNSENT:
            error.own = True
        if not known:
            report(self._exchange, lease.target, failure, "goes on" if error is None else "ends")
        if error is None:
            self._shared.metrics.requests.retries.cell(self._exchange.model, failure.kind.value).value += 1
        if error is None and failure.kind is not Kind.LOADING:
            self._shared.metrics.requests.failovers.cell(lease.target.name, failure.kind.value).value += 1
        return error

    def error(self, failure: Failure) -> GatewayError:
        """Return what the client is told about the last failure. It need not repeat what two engines have failed."""
        final = self._candidates.spent > 1 or self.blame.own
        return GatewayError.of(failure, self._candidates.place(self._exchange.backend), final)

    def close(self, now: float) -> None:
        """End the request's part in the retry budget, and leave to others what is not known of its failures."""
        self.blame.close(now)
        if self._retrying:
            self._shared.budget.give_back()

    def _another_or_error(
        self, target: Target, failure: Failure, patience: Callable[[], float]
    ) -> GatewayError | None:
        """Prepare another attempt after `failure`, or return the error that ends the request if none may follow."""
        exchange, candidates, budget = self._exchange, self._candidates, self._shared.budget
        now = exchange.way.loop.time()
        if failure.kind is Kind.LOADING and now < patience():
            # A loading backend is healthy and will answer soon: do not count the attempt, and allow waiting for it.
            target.backend.note(Health.LOADING, "its model is loading")
            candidates.forget(target)
            exchange.attempts -= 1
            self._let_load(patience() - now)
            return None
        if failure.kind in (Kind.CONNECT, Kind.UNRESOLVED):
            candidates.unreached(target)
            if target.backend.launched and failure.kind is Kind.CONNECT:
                target.backend.note(Health.LOADING, "its engine does not listen; it is being started again")
        left = (exchange.deadline - perf_counter_ns()) / SECOND
        if failure.kind is Kind.CONTEXT and left > 0 and candidates.larger_only() and candidates.more():
            return None
        if not candidates.more() or not may_retry(failure, left):
            return self.error(failure)
        if candidates.spent > 1:
            self._retrying = self._retrying or budget.take()
            if not self._retrying:
                return self.error(failure)
        if failure.kind is Kind.LOADING:
            self._let_load(patience() - now)
        return None

    def _let_load(self, left: float) -> None:
        """Pause before the next attempt, longer each time, unless another backend is usable. `left` is in seconds."""
        # The backend's probe may report that it is ready although it answers that it is loading.
        self._asked_to_wait += 1
        if not any(target.backend.usable for target in self._candidates.untried()):
            self.pause = loading_pause(self._asked_to_wait, max(0.0, left))

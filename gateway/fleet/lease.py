"""Choosing a backend for a request, and counting the request on it.

Rules:
- Choosing and counting are one plain call, `pick`: nothing else runs in between. It returns a `Lease`, closed once.
- A backend that is known to be down, or whose breaker is open, is left out while another is up. As a last resort it is
  tried all the same: a probe can be wrong, and an error from the engine says more than one from the gateway.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from backends.base import Failure, Kind
from gateway.balance.basic import Balancer
from gateway.errors import ROWS
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.telemetry.cells import TargetMetrics
from gateway.wire.clocks import Clocks

COOLDOWN = 5.0
"""Seconds an overloaded backend gets no requests where it does not say how long."""
LONGEST_COOLDOWN = 60.0
"""Seconds of the longest cooldown a backend may ask for."""


class Target:
    """Where a model is served: one backend, and its name for the model."""

    __slots__ = ("backend", "clocks", "metrics", "model", "name", "share")

    def __init__(
        self, backend: Backend, model: str, metrics: TargetMetrics, clocks: Clocks, share: int = 1
    ) -> None:
        """`model` is the backend's name for the model; `share` is the target's weight as the config has it."""
        self.backend = backend
        self.model = model
        self.metrics = metrics
        """The metric cells of the model on this backend."""
        self.clocks = clocks
        """How long each phase of a request may take here."""
        self.share = share
        self.name = backend.name

    @property
    def weight(self) -> float:
        """The weight it has now: less than its share while the backend starts slowly."""
        return self.share * self.backend.slow_start_weight

    @property
    def in_flight(self) -> int:
        """Requests at the backend now, for whichever model."""
        return self.backend.in_flight


class Lease:
    """The right to send one request to one backend. Close it exactly once, in a `finally`."""

    __slots__ = ("_breaker", "_open", "_probe", "target")

    def __init__(self, target: Target) -> None:
        """Count a request at the target's backend."""
        backend = target.backend
        self.target = target
        self._open = True
        # The backend may get another breaker meanwhile, when the config moves it to a new location.
        self._breaker: Breaker = backend.breaker
        self._probe = self._breaker.begin()
        if not backend.in_flight:
            backend.busy_period += 1
        backend.in_flight += 1
        target.metrics.in_flight.value += 1

    def close(self, failure: Failure | None, complete: bool, now: float) -> None:
        """Release the lease; report success, failure or neither to the breaker.

        `complete`: the client got the whole answer. Else `failure` says what went wrong; None where the client left.
        """
        assert self._open, "a lease is closed once"
        self._open = False
        backend, breaker = self.target.backend, self._breaker
        backend.in_flight -= 1
        self.target.metrics.in_flight.value -= 1
        verdict: bool | None = True if complete else None
        if failure is not None:
            if ROWS[failure.kind].outcome != "client_error":
                backend.trouble(_in_words(failure))
            if failure.kind is Kind.OVERLOADED:
                asked = failure.retry_after
                breaker.cool(COOLDOWN if asked is None else min(asked, LONGEST_COOLDOWN), now)
            elif failure.kind is not Kind.LOADING:
                verdict = not ROWS[failure.kind].counts
        was_open = breaker.open
        breaker.end(self._probe, verdict, now)
        if was_open and not breaker.open and breaker is backend.breaker:
            backend.start_slowly()


def _in_words(failure: Failure) -> str:
    """Return a failure as one line, without the engine's own text: that may quote a prompt or an answer."""
    facts = failure.detail if failure.kind in (Kind.CONNECT, Kind.RESET) else ""
    if failure.status is not None:
        facts = f"status {failure.status}"
    return f"{failure.message} ({facts})" if facts else failure.message


def pick(
    targets: Sequence[Target],
    balancer: Balancer,
    now: float,
    tried: Container[Target] = (),
    last_resort: bool = False,
) -> Lease | None:
    """Return a lease on the best target that was not tried yet; None if there is none. `now` is the loop's time.

    With `last_resort`, targets are taken too that are thought to be down or to need a rest.
    """
    found: list[Target] = []
    for target in targets:
        backend = target.backend
        if target in tried:
            continue
        if (backend.usable and backend.breaker.allows(now)) or (
            last_resort and backend.upstream is not None and not backend.coming
        ):
            found.append(target)
    if not found:
        return None
    if len(found) == 1:
        return Lease(found[0])
    for target in found:
        if target.backend.slow_start_weight < 1.0:
            target.backend.update_slow_start(now)
    return Lease(found[balancer.choose(found)])

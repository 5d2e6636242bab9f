"""What the failures of one request say about the backends where it failed, and about the request itself.

Rules:
- A failure speaks against a backend at once if the backend had not read the request: it cannot be the request's doing.
- A failure after that is kept until more is known. If another backend then begins to answer, it counts. If a second
  backend fails too, the request itself is to blame: it is not tried a third time. If no other backend tries it, the
  backend's evidence (`gateway.fleet.evidence`) decides. While the backend is answering others, it gets the benefit of
  the doubt. So does one whose failure says that it is well (`Failure.engine_lives`).
- An overloaded or loading engine, a host name that cannot be looked up, an answer that a limit of the gateway's own on
  its size or total time cut off, and a wait for the first token while the backend answers others say nothing of the
  backend. What the engine finds wrong in the request is a success; what its adapter refuses before anything is sent
  says nothing.
- Nothing here is used for a request that does not fail: its object is made on the first failure.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns

from backends.base import Failure, Kind, Phase
from gateway.dispatch.quarantine import Quarantine
from gateway.errors import ROWS
from gateway.fleet.known import Death
from gateway.fleet.lease import Lease, Target
from gateway.request import Exchange
from gateway.wire.clocks import SECOND

log = logging.getLogger("gateway.dispatch")

_NO_VERDICT = frozenset((Kind.OVERLOADED, Kind.LOADING, Kind.LIMIT, Kind.UNRESOLVED))


def fingerprint(exchange: Exchange) -> int:
    """Return a number that is the same for requests with the same body, within this process."""
    return hash((exchange.request.operation, exchange.request.body))


def report(exchange: Exchange, target: Target, failure: Failure, then: str) -> None:
    """Log a failed attempt and what is done about it, in no word of the engine. A client's error is not logged."""
    if ROWS[failure.kind].outcome == "client_error":
        return
    log.warning(
        "backend '%s': %s [%s, %s, request %s, %s]",
        target.backend.name,
        failure.logged,
        failure.kind,
        failure.phase or "-",
        exchange.name,
        then,
    )


class Blame:
    """The failures of one request so far."""

    __slots__ = ("_accused", "_accused_is_well", "_exchange", "_quarantine", "own")

    def __init__(self, exchange: Exchange, quarantine: Quarantine) -> None:
        self._exchange = exchange
        self._quarantine = quarantine
        self._accused: Lease | None = None
        """Where it failed first, until it is known what that says."""
        self._accused_is_well: bool = False
        """Whether that failure says that the engine is well."""
        self.own = False
        """Whether the request itself is to blame: it failed twice after an engine had read it."""

    def failed(self, lease: Lease, failure: Failure, sent_at: int, now: float) -> None:
        """Take the failure of an attempt whose lease is closed.

        `sent_at` is when the request was sent, in nanoseconds of the timeline's clock, 0 if it was not; `now` is the
        loop's time.
        """
        backend, kind = lease.target.backend, failure.kind
        if kind in _NO_VERDICT:
            return
        if not ROWS[kind].counts:
            if sent_at:
                lease.succeeded(now)
        elif kind is Kind.CONNECT or failure.phase is Phase.SEND:
            lease.failed(now)
        elif kind is Kind.TIMEOUT and not _is_engines_silence(failure, lease, sent_at, now):
            return
        else:
            if kind is Kind.RESET and not backend.in_flight:
                self._suspect_death(lease, now)
            self._accuse(lease, failure.engine_lives, now)
        if failure.phase is Phase.CONNECT:
            backend.refused()

    def answered(self, now: float) -> None:
        """Count the first failure against its backend, because another backend answers the same request."""
        accused, self._accused = self._accused, None
        if accused is not None:
            accused.target.backend.evidence.served_elsewhere()
            accused.failed(now)

    def close(self, now: float) -> None:
        """Leave the failure that nothing more will be known of to the backend's evidence."""
        accused, self._accused = self._accused, None
        if accused is not None and not (self._accused_is_well or _is_answering(accused)):
            times = accused.target.backend.evidence.failed_here(fingerprint(self._exchange))
            accused.failed(now, times)

    def _accuse(self, lease: Lease, is_well: bool, now: float) -> None:
        first, first_is_well = self._accused, self._accused_is_well
        self._accused, self._accused_is_well = lease, is_well
        if first is None:
            return
        self.own = True
        if first.target.backend is lease.target.backend:
            return
        self._accused = None
        request = fingerprint(self._exchange)
        for each, lives in ((first, first_is_well), (lease, is_well)):
            if not (lives or _is_answering(each)):
                backend = each.target.backend
                many = backend.breaker.settings.consecutive
                each.failed(now, backend.evidence.failed_at_two(request, many))

    def _suspect_death(self, lease: Lease, now: float) -> None:
        """Remember that the engine may have died, while this request was the only one there."""
        backend = lease.target.backend
        death = Death(fingerprint(self._exchange), self._exchange.name, backend.name, now)
        backend.suspected_death = death
        backend.woken.set()
        self._quarantine.suspect(death)


def fell_silent(failure: Failure | None) -> bool:
    """Tell whether an attempt ended because nothing came from the engine for too long."""
    return failure is not None and failure.kind is Kind.TIMEOUT and failure.phase is not Phase.TOTAL


def _is_answering(lease: Lease) -> bool:
    """Tell whether the backend is answering other requests, while this one failed without an answer."""
    return lease.silent and lease.target.backend.answering > 0


def _is_engines_silence(failure: Failure, lease: Lease, sent_at: int, now: float) -> bool:
    """Tell whether a time limit was reached because the engine is silent.

    It is not where the request waits in the engine's own queue, which shows in content for others since it was sent.
    Nor is it where the answer came steadily and only the total limit cut it off.
    """
    if not lease.silent:
        return failure.phase is not Phase.TOTAL
    backend = lease.target.backend
    sent = now - (perf_counter_ns() - sent_at) / SECOND
    return not backend.answering and backend.heard_at <= sent

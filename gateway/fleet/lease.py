"""Choosing a backend for a request, and counting the request on it.

Rules:
- Choosing and counting are one plain call, `pick`: nothing else runs in between. It returns a `Lease`, closed once.
- A backend that is known to be down, or whose breaker is open, is left out while another is up. As a last resort it is
  tried all the same: a probe can be wrong, and an error from the engine says more than one from the gateway. One that
  sleeps is not: it would keep the request without a word. Nor is one that an operator has drained.
- A backend that has not loaded the adapter that a target needs is left out, even as a last resort.
- A backend whose slots are all taken is left out: the request waits for a slot of any of them, and holds no lease.
- Closing a lease says nothing about the backend. What an answer or a failure says about it is told by `heard`,
  `succeeded` and `failed`, where the last may come later than `close`.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import Failure, Kind
from backends.dialect.parameters import Parameters
from gateway.admission.gate import Gate
from gateway.asked import Asked
from gateway.balance.loaded import Balancer, Loaded
from gateway.errors import ROWS
from gateway.fleet.adapters import Adapter
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.telemetry.cells import TargetMetrics
from gateway.wire.clocks import Clocks

COOLDOWN = 5.0
"""Seconds an overloaded backend gets no requests where it does not say how long."""
LONGEST_COOLDOWN = 60.0
"""Seconds of the longest cooldown a backend may ask for."""


class Target(Loaded):
    """Where a model is served: one backend, and its name for the model."""

    __slots__ = ("adapter", "backend", "clocks", "metrics", "model", "parameters")

    def __init__(
        self, backend: Backend, model: str, metrics: TargetMetrics, clocks: Clocks, share: int = 1
    ) -> None:
        """`model` is the backend's name for the model; `share` is the target's weight as the config has it."""
        super().__init__(backend.name, share)
        self.backend = backend
        self.model = model
        self.metrics = metrics
        """The metric cells of the model on this backend."""
        self.clocks = clocks
        """How long each phase of a request may take here."""
        self.parameters: Parameters | None = None
        """What the model settles of its requests; None where it leaves them as they are."""
        self.adapter: Adapter | None = None
        """The LoRA adapter that the backend must have loaded; None where the model is no adapter."""

    @property
    def weight(self) -> float:
        """The weight it has now: less than its share while the backend starts slowly; times an operator's factor."""
        backend = self.backend
        return self.share * backend.slow_start_weight * backend.orders.factor

    @property
    def generation(self) -> int:
        """Another number after everything by which the engine may have lost what it had in memory."""
        return self.backend.generation

    @property
    def in_flight(self) -> int:
        """Requests at the backend now, for whichever model."""
        return self.backend.in_flight

    @property
    def pressing(self) -> int:
        """Those of them that are not of the class `background`."""
        return self.backend.in_flight - self.backend.patient

    def load(self, now: float) -> float:
        """Return how many requests are at the engine: our own for whichever model, and others' as far as it tells."""
        backend = self.backend
        return backend.in_flight + backend.load.foreign(now)


class Lease:
    """The right to send one request to one backend, with one of its slots. Close it exactly once."""

    __slots__ = (
        "_began",
        "_breaker",
        "_gate",
        "_heard",
        "_listener",
        "_open",
        "_patient",
        "_trial",
        "affinity",
        "target",
    )

    def __init__(self, target: Target, now: float, gate: Gate | None = None, patient: bool = False) -> None:
        """Count a request at the target's backend. `now` is the loop's time; a slot of `gate` is held for it.

        `patient`: it is one of the class `background`.
        """
        backend = target.backend
        self.target = target
        # The backend may get another gate meanwhile, as it may get another breaker.
        self._gate = gate
        self._open = True
        self._heard = False
        self._began = now
        self._listener: Balancer | None = None
        self.affinity = ""
        """What became of affinity when it was chosen: `hit`, `miss` or `moved`; empty where there is none."""
        self._breaker: Breaker = backend.breaker
        self._trial = self._breaker.begin(now)
        if self._trial:
            backend.breaker_tries()
        if not backend.in_flight:
            backend.busy_period += 1
        backend.in_flight += 1
        self._patient = patient
        if patient:
            backend.patient += 1
        if target.adapter is not None:
            target.adapter.enter(now)
        target.metrics.in_flight.value += 1

    def listen(self, balancer: Balancer) -> None:
        """Tell the balancer how long the first token takes."""
        self._listener = balancer

    def heard(self, now: float) -> None:
        """Take note of the first content of the answer: the backend works. A trial ends with it."""
        backend = self.target.backend
        self._heard = True
        if self._listener is not None:
            self._listener.answered(backend.name, now - self._began, now)
        backend.heard_at = now
        backend.answering += 1
        if self._trial:
            self._breaker.end_trial()
            self.succeeded(now)
            self._trial = False

    @property
    def silent(self) -> bool:
        """Whether no content of an answer has come."""
        return not self._heard

    def close(self, now: float, fell_silent: bool = False) -> None:
        """Release the lease and its slot: the request is at the backend no more.

        `fell_silent`: a time limit ended it, so nothing has come from the backend for a while.
        """
        assert self._open, "a lease is closed once"
        self._open = False
        if self._gate is not None:
            self._gate.leave()
        backend = self.target.backend
        backend.in_flight -= 1
        if self._patient:
            backend.patient -= 1
        if self.target.adapter is not None:
            self.target.adapter.leave()
        self.target.metrics.in_flight.value -= 1
        if self._heard:
            backend.answering -= 1
            if not fell_silent:
                backend.heard_at = now
        elif self._listener is not None:
            self._listener.waited(backend.name, now - self._began, now)
        if self._trial:
            self._breaker.end_trial()

    def succeeded(self, now: float) -> None:
        """Count a success: the backend gave the client an answer, or found a fault in the request."""
        backend, breaker = self.target.backend, self._breaker
        if not backend.evidence.empty:
            backend.evidence.clear()
        backend.suspected_death = None
        was_open = breaker.open
        breaker.succeeded(self._trial, now)
        if was_open and not breaker.open:
            backend.breaker_closed(breaker)

    def failed(self, now: float, times: int = 1) -> None:
        """Count failures that speak against the backend, the one of this request among them."""
        breaker = self._breaker
        for _ in range(times):
            ejections = breaker.ejections
            breaker.failed(self._trial, now)
            if breaker.ejections != ejections:
                self.target.backend.breaker_opened(breaker, now)

    def trouble(self, failure: Failure, now: float) -> None:
        """Keep a failure as the backend's last error; begin a cooldown if the backend is overloaded."""
        backend = self.target.backend
        if ROWS[failure.kind].outcome != "client_error":
            backend.trouble(failure.logged)
        if failure.kind is Kind.OVERLOADED:
            asked = failure.retry_after
            self._breaker.cool(COOLDOWN if asked is None else min(asked, LONGEST_COOLDOWN), now)


def _may_be_used(target: Target, now: float, tried: Sequence[Target], last_resort: bool) -> bool:
    backend = target.backend
    if tried and target in tried:
        return False
    if target.adapter is not None and not target.adapter.loaded:
        return False
    if backend.usable and backend.breaker.allows(now):
        return True
    if not last_resort or backend.upstream is None or backend.orders.drained:
        return False
    return not (backend.coming or backend.asleep)


def pick(
    targets: Sequence[Target],
    balancer: Balancer | None,
    now: float,
    tried: Sequence[Target] = (),
    last_resort: bool = False,
    held: Gate | None = None,
    asked: Asked | None = None,
) -> Lease | None:
    """Return a lease on the best target that was not tried yet and has a slot; None if there is none.

    `balancer` chooses, and takes note of the choice even where there is but one; None: the model has one target. `now`
    is the loop's time. With `last_resort`, targets are taken too that are thought to be down or to need a rest. The
    lease takes a slot, unless it is one of `held`: then it is the one that the caller has already. `asked` is what the
    request asks for, where that is known.
    """
    found: list[Target] = []
    slow = False
    for target in targets:
        gate = target.backend.gate
        if (gate is None or gate is held or gate.has_room) and _may_be_used(target, now, tried, last_resort):
            found.append(target)
            slow = slow or target.backend.slow_start_weight < 1.0
    if not found:
        return None
    target = found[0]
    if balancer is not None:
        if slow and len(found) > 1:
            for target in found:
                if target.backend.slow_start_weight < 1.0:
                    target.backend.update_slow_start(now)
        target = found[balancer.choose(found, asked, now)]
    gate = target.backend.gate
    if gate is not None and gate is not held:
        gate.try_enter()
    lease = Lease(target, now, gate, asked is not None and asked.is_patient)
    if balancer is not None:
        lease.affinity = balancer.note
        if balancer.hears and asked is not None and asked.request.stream:
            lease.listen(balancer)
    return lease


def full(targets: Sequence[Target], now: float, tried: Sequence[Target] = ()) -> list[Gate]:
    """Return the gates of the targets that `pick` would have taken if they had a free slot."""
    gates: list[Gate] = []
    for target in targets:
        gate = target.backend.gate
        if gate is not None and not gate.has_room and _may_be_used(target, now, tried, False):
            gates.append(gate)
    return gates

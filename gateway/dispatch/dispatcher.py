"""Where requests set out from: what all of them share on their way to a backend.

Rules:
- `run` returns at once. A request whose backend is ready and has an idle connection is under way by then; any other
  goes on in a task of its own.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from backends.base import Health
from gateway.admission.gate import Gate
from gateway.dispatch.journey import Journey
from gateway.dispatch.retry import Budget
from gateway.fleet.pool import Backend, Pool
from gateway.request import Exchange
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics

WAITING = 1000
"""Requests that may wait for one backend whose engine takes only so many at once."""


class Dispatcher:
    """Carries requests out on the backends of a pool."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        self.pool = pool
        self.metrics = metrics
        self.accounting = accounting
        self.budget = budget
        self._gates: WeakKeyDictionary[Backend, Gate] = WeakKeyDictionary()

    def run(self, exchange: Exchange) -> None:
        """Answer a request whose plan is known. Raises nothing: what goes wrong ends the request."""
        journey = Journey(self, exchange)
        journey.begin()

    def gate(self, backend: Backend) -> Gate | None:
        """Return where requests wait for a backend that cannot take all of them at once; None where it can."""
        slots = backend.engine.parallel
        if slots is None:
            return None
        gate = self._gates.get(backend)
        if gate is None:
            gate = self._gates[backend] = Gate(slots, WAITING)
        return gate

    def ready(self) -> bool:
        """Tell whether some backend is known to be ready."""
        return any(backend.health is Health.READY for backend in self.pool.backends.values())

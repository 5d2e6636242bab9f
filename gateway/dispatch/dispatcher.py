"""Where requests set out from: what all of them share on their way to a backend.

Rules:
- `run` returns at once. A request whose backend is ready and has an idle connection is under way by then; any other
  goes on in a task of its own.
"""

from __future__ import annotations

from backends.base import Health
from gateway.dispatch.journey import Journey
from gateway.dispatch.retry import Budget
from gateway.fleet.pool import Pool
from gateway.request import Exchange
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics


class Dispatcher:
    """Carries requests out on the backends of a pool."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        self.pool = pool
        self.metrics = metrics
        self.accounting = accounting
        self.budget = budget

    def run(self, exchange: Exchange) -> None:
        """Answer a request whose plan is known. Raises nothing: what goes wrong ends the request."""
        journey = Journey(self, exchange)
        journey.begin()

    def ready(self) -> bool:
        """Tell whether some backend is known to be ready."""
        return any(backend.health is Health.READY for backend in self.pool.backends.values())

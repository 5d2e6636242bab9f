"""The dispatcher: starts the journey of each request, and holds what all journeys share.

Rules:
- `run` returns at once. If a backend is ready and has an idle connection, the request has been sent by then; otherwise
  it continues in a task of its own.
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
    """Serves requests with the backends of a pool."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        self.pool = pool
        self.metrics = metrics
        self.accounting = accounting
        self.budget = budget

    def run(self, exchange: Exchange) -> None:
        """Start to serve a request whose plan is known. Raises nothing: an error ends the request."""
        journey = Journey(self, exchange)
        journey.begin()

    def ready(self) -> bool:
        """Tell whether some backend is known to be ready."""
        return any(backend.health is Health.READY for backend in self.pool.backends.values())

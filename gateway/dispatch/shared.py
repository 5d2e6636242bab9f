"""What the journeys of all requests share.

Rules:
- One event loop, one writer: nothing here is locked.
"""

from __future__ import annotations

from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.retry import Budget
from gateway.fleet.pool import Pool
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics


class Shared:
    """The backends, the counters, and what limits or refuses requests."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        """Start with nothing in quarantine."""
        self.pool: Pool = pool
        self.metrics: Metrics = metrics
        self.accounting: Accounting = accounting
        self.budget: Budget = budget
        self.quarantine: Quarantine = Quarantine()

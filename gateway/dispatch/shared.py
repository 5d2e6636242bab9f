"""What the journeys of all requests share.

Rules:
- One event loop, one writer: nothing here is locked.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.admission.gate import Gate, enter
from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.retry import Budget
from gateway.fleet.pool import Pool
from gateway.request import Exchange
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import QUEUE


class Shared:
    """The backends, the counters, and what limits or refuses requests."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        """Start with nothing in quarantine."""
        self.pool: Pool = pool
        self.metrics: Metrics = metrics
        self.accounting: Accounting = accounting
        self.budget: Budget = budget
        self.quarantine: Quarantine = Quarantine()

    async def queue(self, exchange: Exchange, gates: Sequence[Gate], until: float) -> Gate:
        """Wait for a slot of one of the gates until `until` (loop time), and take it; return its gate.

        Raises:
            GatewayError: The queues are full, or none is free in time.
        """
        exchange.timeline.mark(QUEUE)
        queued = self.metrics.queued.cell(exchange.plan.model)
        queued.value += 1
        try:
            return await enter(gates, until)
        finally:
            queued.value -= 1

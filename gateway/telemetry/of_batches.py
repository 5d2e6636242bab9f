"""The metrics of batches.

Rules:
- The requests of batches are counted in the metrics of requests as well: they are requests as all others.
"""

from __future__ import annotations

from gateway.telemetry.registry import Families


class BatchMetrics:
    """What becomes of batches and of their requests."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Batches")
        self.batches = add.gauge(
            "gateway_batches",
            "Batches in the store, by status. All processes see the same store.",
            ("status",),
            across="largest",
        )
        self.requests = add.counter(
            "gateway_batch_requests",
            "Requests of batches that are done: `completed`, `failed` (with an error) or `expired` (never answered).",
            ("outcome",),
        )
        self.retries = add.counter(
            "gateway_batch_retries",
            "Requests of batches that are sent again: `waited` (nobody could take it), `failed` (an engine failed "
            "at it).",
            ("reason",),
        )

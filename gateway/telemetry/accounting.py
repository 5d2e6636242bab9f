"""The sink that counts finished attempts and requests in the metrics.

Rules:
- An attempt is counted once, when it is over, and so is a request. No other code writes to these metrics.
- How a request spent its time is taken from its timeline only.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from backends.base import Usage
from gateway.request import Exchange
from gateway.telemetry.cells import TargetMetrics
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import AUTH, RECEIVE, ROUTE

log = logging.getLogger("gateway.request")

SECOND: Final = 1e9
"""Nanoseconds per second."""


class Tried(Protocol):
    """An attempt that is over, as `gateway.wire.relay.Attempt` has it."""

    @property
    def result(self) -> str: ...
    @property
    def tokens(self) -> Usage: ...
    @property
    def sent_at(self) -> int: ...
    @property
    def first_token_at(self) -> int: ...


class Accounting:
    """Adds the durations, tokens and outcomes of requests to the metrics."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempted(self, exchange: Exchange, backend: str, cells: TargetMetrics, attempt: Tried) -> None:
        """Count one attempt at the backend of this name; `cells` are the metrics of its target."""
        timeline = exchange.timeline
        if attempt.first_token_at:
            exchange.first_token_at = attempt.first_token_at
            cells.first_token.observe((attempt.first_token_at - timeline.received) / SECOND)
        if attempt.sent_at:
            cells.overhead.observe((timeline.spent[AUTH] + timeline.spent[ROUTE]) / SECOND)
        tokens = exchange.usage = attempt.tokens
        cells.input_tokens.value += tokens.input
        cells.output_tokens.value += tokens.output
        self._metrics.requests.attempts.cell(backend, attempt.result).value += 1

    def finished(self, exchange: Exchange) -> None:
        """Count one request that has ended."""
        metrics, timeline = self._metrics, exchange.timeline
        model, backend = exchange.model, exchange.backend
        metrics.requests.finished.cell(model, backend, exchange.operation.value, exchange.outcome).value += 1
        metrics.requests.duration.cell(model, backend).observe(
            (timeline.total - timeline.spent[RECEIVE]) / SECOND
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s at %s: %s", exchange.name, model, backend, exchange.outcome)

"""The sink that counts finished attempts and requests in the metrics.

Rules:
- An attempt is counted once, when it is over, and so is a request. No other code writes to these metrics.
- How a request spent its time is taken from its timeline only.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from backends.base import Usage
from gateway.errors import CLIENT_GONE, CLIENT_SLOW
from gateway.request import Exchange
from gateway.telemetry.cells import NONE, Histogram, RouteMetrics, TargetMetrics
from gateway.telemetry.conventions import operation_name
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import AUTH, HOPS, RECEIVE, ROUTE
from gateway.telemetry.trace import Noted

log = logging.getLogger("gateway.request")

SECOND: Final = 1e9
"""Nanoseconds per second."""
DETAILS: Final = ("cached", "cache_write", "reasoning", "drafted", "accepted")
"""The parts of a prompt's or an answer's tokens that an engine may tell, as `backends.base.Usage` has them."""


class Metered(Noted, Protocol):
    """An attempt that is over, with what is counted of it."""

    @property
    def sent(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def translated(self) -> str: ...


class Accounting:
    """Adds the durations, tokens and outcomes of requests to the metrics."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempted(self, exchange: Exchange, cells: TargetMetrics, attempt: Metered) -> None:
        """Count one attempt at the target that these cells belong to."""
        timeline = exchange.timeline
        routed = cells.by_route.get(exchange.route)
        if routed is None:
            routed = self._routed(cells, exchange.route)
        if attempt.first_token_at:
            exchange.first_token_at = attempt.first_token_at
            waited = (attempt.first_token_at - timeline.received) / SECOND
            _observe(routed.first_token, waited, exchange)
        if attempt.sent_at:
            routed.overhead.observe((timeline.spent[AUTH] + timeline.spent[ROUTE]) / SECOND)
            self._translated(exchange, cells, attempt)
            if self._metrics.gen_ai.on:
                self._conventional(exchange, cells, attempt)
        self._spent(exchange, cells, attempt.tokens)
        cells.sent.value += attempt.sent
        cells.received.value += attempt.received
        result = attempt.result
        counted = cells.by_result.get(result)
        if counted is None:
            counted = self._metrics.requests.attempts.cell(cells.backend, cells.engine, result)
            cells.by_result[result] = counted
        counted.value += 1
        if attempt.leg is not None:
            attempt.leg.end(cells.backend, attempt)

    def _conventional(self, exchange: Exchange, cells: TargetMetrics, attempt: Metered) -> None:
        """Count an attempt by the names of OpenTelemetry's conventions too."""
        names = operation_name(exchange.operation), cells.engine, cells.model
        waited = (attempt.first_token_at - exchange.timeline.received) / SECOND
        self._metrics.gen_ai.attempted(names, attempt, waited)

    def _translated(self, exchange: Exchange, cells: TargetMetrics, attempt: Metered) -> None:
        """Count whether what was sent had to be translated."""
        reason = attempt.translated
        names = exchange.surface.name, exchange.operation._value_, cells.engine
        way = ("translated", reason) if reason else ("passed", NONE)
        self._metrics.requests.translations.cell(*names, *way).value += 1

    def _spent(self, exchange: Exchange, cells: TargetMetrics, tokens: Usage) -> None:
        """Count the tokens of one attempt."""
        exchange.usage = tokens
        cells.input_tokens.value += tokens.input
        cells.output_tokens.value += tokens.output
        key = self._metrics.keys.tokens
        key.cell(exchange.key, "in").value += tokens.input
        key.cell(exchange.key, "out").value += tokens.output
        for detail in DETAILS:
            told: int | None = getattr(tokens, detail)
            if told is not None:
                names = cells.model, cells.backend, cells.engine, detail
                self._metrics.requests.tokens_detail.cell(*names).value += told

    def _routed(self, cells: TargetMetrics, route: str) -> RouteMetrics:
        of, names = self._metrics.requests, (cells.model, cells.backend, cells.engine, route)
        found = cells.by_route[route] = RouteMetrics(of.first_token.cell(*names), of.overhead.cell(*names))
        return found

    def finished(self, exchange: Exchange) -> None:
        """Count one request that has ended."""
        metrics, timeline = self._metrics, exchange.timeline
        model, backend, outcome = exchange.model, exchange.backend, exchange.outcome
        names = (
            *(model, backend, exchange.engine, exchange.route),
            *(exchange.operation._value_, outcome, exchange.key),
        )
        of = metrics.requests
        cells = of.ended(names, metrics.keys.requests)
        cells.count.value += 1
        cells.of_key.value += 1
        spent = timeline.spent
        lasted = (timeline.total - spent[RECEIVE]) / SECOND
        _observe(cells.duration, lasted, exchange)
        if metrics.gen_ai.on:
            conventional = operation_name(exchange.operation), exchange.engine, model
            metrics.gen_ai.finished(conventional, outcome, lasted)
        hops = cells.hops
        for hop, nanoseconds in enumerate(spent):
            if nanoseconds:
                histogram = hops[hop]
                if histogram is None:
                    histogram = hops[hop] = of.hop_of(hop, names)
                histogram.observe(nanoseconds / SECOND)
        if outcome != "ok":
            self._trouble(exchange)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s at %s: %s", exchange.name, model, backend, outcome)

    def _trouble(self, exchange: Exchange) -> None:
        """Count why a request has no complete answer, unless an engine is the reason."""
        metrics, code = self._metrics, exchange.code
        if exchange.refused:
            metrics.requests.refusals.cell(code).value += 1
            metrics.keys.refusals.cell(exchange.key, code).value += 1
        if exchange.outcome in (CLIENT_GONE, CLIENT_SLOW):
            phase = HOPS[exchange.left_at]
            metrics.requests.client_aborts.cell(exchange.model, exchange.backend, phase).value += 1


def _observe(histogram: Histogram, seconds: float, exchange: Exchange) -> None:
    """Count a duration of a request, with the trace that it belongs to; most belong to none."""
    trace_id = exchange.trace_id if exchange.traced is not None or exchange.trace else ""
    if trace_id:
        histogram.observe_traced(seconds, trace_id)
    else:
        histogram.observe(seconds)

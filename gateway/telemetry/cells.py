"""Cells: the plain counters, gauges and histograms that requests update.

Rules:
- Updating a cell is one addition, without a lock, a label look-up or an allocation. One event loop is the only writer.
- Cells know nothing of Prometheus; `gateway.telemetry.metrics` exports them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from time import time
from typing import Final

NONE: Final = "-"
"""The label value for a request that ended before its model or backend was known."""


class Value:
    """One number: a counter or a gauge."""

    __slots__ = ("_shown", "value")

    def __init__(self) -> None:
        self.value: float = 0.0
        self._shown: bool = False

    def is_shown(self, sparse: bool) -> bool:
        """Tell whether the cell is exported: in a family that is `sparse`, once it was not zero at an export."""
        self._shown = self._shown or not sparse or self.value != 0.0
        return self._shown

    def plain(self) -> float | list[float]:
        """Return the number."""
        return self.value


class Histogram:
    """The counts of observations per bucket, and the sum of all observations.

    `exemplars` has for a bucket the last observation of which a trace was known: its value, the trace's id, and when it
    was, in seconds since 1970.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Create empty buckets with these upper bounds, and one more that has none."""
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0
        self.exemplars: dict[int, tuple[float, str, float]] = {}

    def observe_traced(self, value: float, trace_id: str) -> None:
        """Count one observation of which the trace is known."""
        self.observe(value)
        self.exemplars[bisect_left(self.bounds, value)] = (value, trace_id, time())

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def is_shown(self, sparse: bool) -> bool:
        """Tell whether the histogram is exported: in a family that is `sparse`, once something was observed."""
        return not sparse or any(self.counts)

    def plain(self) -> float | list[float]:
        """Return the sum followed by the counts."""
        return [self.sum, *self.counts]

    def plain_exemplars(self) -> list[tuple[int, float, str, float]]:
        """Return the exemplars with the numbers of their buckets."""
        return [(bucket, *exemplar) for bucket, exemplar in self.exemplars.items()]

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each upper bound with its cumulative count, as Prometheus expects them."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else repr(float(bound))), total


class RouteMetrics:
    """The cells that requests of one rule for one model at one backend update."""

    __slots__ = ("first_token", "overhead")

    def __init__(self, first_token: Histogram, overhead: Histogram) -> None:
        self.first_token = first_token
        self.overhead = overhead


class TargetMetrics:
    """The cells that attempts for one model at one backend update, and the names that they stand under."""

    __slots__ = (
        "backend",
        "by_result",
        "by_route",
        "engine",
        "in_flight",
        "input_tokens",
        "model",
        "output_tokens",
        "received",
        "sent",
        "token_gap",
    )

    def __init__(
        self,
        names: tuple[str, str, str],
        in_flight: Value,
        token_gap: Histogram,
        tokens: tuple[Value, Value],
        size: tuple[Value, Value],
    ) -> None:
        """`names` are those of the model, the backend and its kind of engine.

        `tokens` are those of prompts and of answers, `size` the bytes sent and received.
        """
        self.model, self.backend, self.engine = names
        self.in_flight = in_flight
        self.token_gap = token_gap
        self.input_tokens, self.output_tokens = tokens
        self.sent, self.received = size
        self.by_result: dict[str, Value] = {}
        """Attempts, by what became of them, as far as that has occurred."""
        self.by_route: dict[str, RouteMetrics] = {}
        """By the rule that sent a request here, as far as that has occurred."""


class EndedMetrics:
    """The cells that requests update which are alike in model, backend, rule, operation, outcome and key."""

    __slots__ = ("count", "duration", "hops", "of_key")

    def __init__(self, count: Value, duration: Histogram, of_key: Value, hops: int) -> None:
        """`hops` is how many hops there are."""
        self.count = count
        self.duration = duration
        self.of_key = of_key
        self.hops: list[Histogram | None] = [None] * hops
        """By the number of the hop, as far as any of these requests were in it."""

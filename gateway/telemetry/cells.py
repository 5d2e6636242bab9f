"""The numbers that requests write to: plain counters and histograms, looked up once and added to ever after.

Rules:
- Adding to a cell is an addition and nothing else: no lock, no label, no allocation. One event loop is the only writer.
- What Prometheus makes of cells is `gateway.telemetry.metrics`'s business.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

NONE: Final = "-"
"""Label value where a request never came as far as a model or a backend."""


class Value:
    """One number: a counter that only grows, or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0.0

    def plain(self) -> float | list[float]:
        """Return the number."""
        return self.value


class Histogram:
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the upper bounds of the buckets but the last, which has none."""
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def plain(self) -> float | list[float]:
        """Return the sum, then the counts."""
        return [self.sum, *self.counts]

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield upper bounds with cumulative counts, as Prometheus wants them."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else repr(float(bound))), total


class TargetMetrics:
    """The cells that a request for one model at one backend writes to."""

    __slots__ = (
        "duration",
        "first_token",
        "in_flight",
        "input_tokens",
        "output_tokens",
        "overhead",
        "token_gap",
    )

    def __init__(
        self,
        in_flight: Value,
        duration: Histogram,
        first_token: Histogram,
        token_gap: Histogram,
        overhead: Histogram,
        input_tokens: Value,
        output_tokens: Value,
    ) -> None:
        self.in_flight = in_flight
        self.duration = duration
        self.first_token = first_token
        self.token_gap = token_gap
        self.overhead = overhead
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens

"""A live percentile of durations, from counts in buckets that grow by a tenth each.

Rules:
- Pure and of fixed size. A percentile is exact to a tenth of itself, and never too short.
- To observe is a logarithm and two additions; a percentile is found from the longest durations downwards.
"""

from __future__ import annotations

from math import log
from typing import Final

SHORTEST: Final = 0.001
"""Seconds of the first bucket's upper bound."""
BUCKETS: Final = 160
"""The upper bound of the last bucket is more than an hour; longer durations are counted in it."""
_GROWTH: Final = 1.1
_PER_LOG: Final = 1.0 / log(_GROWTH)


def _bucket(seconds: float) -> int:
    if seconds <= SHORTEST:
        return 0
    return min(BUCKETS - 1, int(log(seconds / SHORTEST) * _PER_LOG) + 1)


class Durations:
    """How many durations of each length were observed."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts: list[float] = [0.0] * BUCKETS
        self.total: float = 0.0
        """Durations observed, less what was forgotten."""

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[_bucket(seconds)] += 1.0
        self.total += 1.0

    def percentile(self, share: float) -> float:
        """Return the seconds that `share` of the durations, from 0 to 1, do not exceed; 0 where there are none."""
        beyond = self.total * (1.0 - share)
        bucket = BUCKETS
        while bucket > 0 and beyond >= 0.0:
            bucket -= 1
            beyond -= self._counts[bucket]
        return SHORTEST * _GROWTH**bucket if self.total else 0.0

    def above(self, seconds: float) -> float:
        """Return how many durations were longer, those in the bucket of `seconds` not counted."""
        return sum(self._counts[_bucket(seconds) + 1 :])

    def fade(self) -> None:
        """Let everything so far count half, so that what comes next counts for more."""
        self._counts = [count / 2.0 for count in self._counts]
        self.total /= 2.0

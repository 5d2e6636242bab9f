"""How much more than its share a backend may have to do before affinity gives way: bounded loads.

Rules:
- A target may have `factor` times its share of all requests, the new one included, rounded up; and always `floor` of
  them, however little the others have to do. So affinity costs nobody much, and never gives way without need.
- Some target always has room (for `factor` of at least 1): one of those that have no more than their share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gateway.balance.loaded import Loaded


class Bound:
    """The limits, and the loads of the choice that is being made."""

    __slots__ = ("_all_load", "_all_weight", "_factor", "_floor")

    def __init__(self, factor: float, floor: int) -> None:
        self._factor: float = factor
        self._floor: int = floor
        self._all_load: float = 0.0
        self._all_weight: float = 0.0

    def look(self, targets: Sequence[Loaded], now: float) -> None:
        """Take the loads of all targets, for the calls of `room` and `weight` that follow at once."""
        load, weight = 0.0, 0.0
        for target in targets:
            load += target.load(now)
            weight += target.weight
        self._all_load, self._all_weight = load, weight

    def room(self, target: Loaded, now: float) -> bool:
        """Tell whether one more request leaves a target within its limit."""
        return target.load(now) + 1.0 <= self.limit(target)

    def limit(self, target: Loaded) -> float:
        """Return how many requests a target may have."""
        share = target.weight / self._all_weight
        # Without the last digits, or a limit that is whole would be rounded up to the next.
        return max(self._floor, math.ceil(self._factor * (self._all_load + 1.0) * share - 1e-9))

    def part(self, weight: float) -> float:
        """Return which part of all targets' weights this is, times the factor."""
        return self._factor * weight / self._all_weight

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

    __slots__ = ("_all_load", "_all_weight", "_factor", "_floor", "_now", "_targets")

    def __init__(self, factor: float, floor: int) -> None:
        self._factor: float = factor
        self._floor: int = floor
        self._targets: Sequence[Loaded] = ()
        self._now: float = 0.0
        self._all_load: float = 0.0
        self._all_weight: float = 0.0
        """0 as long as nobody had to know the loads of all."""

    def begin(self, targets: Sequence[Loaded], now: float) -> None:
        """Begin a choice: the other calls are about these targets until the next one."""
        self._targets, self._now, self._all_weight = targets, now, 0.0

    def room(self, target: Loaded) -> bool:
        """Tell whether one more request leaves a target within its limit."""
        load = target.load(self._now) + 1.0
        if load <= self._floor:
            return True
        self._look()
        share = target.weight / self._all_weight
        # Without the last digits, or a limit that is whole would be rounded up to the next.
        return load <= math.ceil(self._factor * (self._all_load + 1.0) * share - 1e-9)

    def part(self, weight: float) -> float:
        """Return which part of all targets' weights this is, times the factor."""
        self._look()
        return self._factor * weight / self._all_weight

    def _look(self) -> None:
        """Take the loads of all targets, once for each choice."""
        if self._all_weight:
            return
        load, weight, now = 0.0, 0.0, self._now
        for target in self._targets:
            load += target.load(now)
            weight += target.weight
        self._all_load, self._all_weight = load, weight

"""Which of several targets takes the next request. Pure choices, made of loads and weights.

Rules:
- Chance is an argument. A choice never waits.
- A weight of 2 means twice the load of a weight of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol


class Loaded(Protocol):
    """What a choice is made of."""

    @property
    def weight(self) -> float: ...

    @property
    def in_flight(self) -> int:
        """Requests at the backend behind this target now."""


class Balancer(Protocol):
    """A way to choose. `targets` has at least one member; the answer is its index."""

    def choose(self, targets: Sequence[Loaded]) -> int: ...


class LeastLoaded:
    """The target with the fewest requests for its weight; among equals, chance."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, targets: Sequence[Loaded]) -> int:
        loads = [(target.in_flight + 1) / target.weight for target in targets]
        least = min(loads)
        equals = [index for index, load in enumerate(loads) if load == least]
        return equals[0] if len(equals) == 1 else self._rng.choice(equals)


class RoundRobin:
    """Each in turn, as often as its weight says, evenly spread (the smooth weighted rotation nginx uses)."""

    def __init__(self) -> None:
        self._credit: dict[int, float] = {}

    def choose(self, targets: Sequence[Loaded]) -> int:
        total = 0.0
        best, best_credit = 0, float("-inf")
        for index, target in enumerate(targets):
            key = id(target)
            credit = self._credit.get(key, 0.0) + target.weight
            self._credit[key] = credit
            total += target.weight
            if credit > best_credit:
                best, best_credit = index, credit
        self._credit[id(targets[best])] -= total
        return best

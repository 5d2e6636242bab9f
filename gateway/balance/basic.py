"""Which of several targets takes the next request: pure choices from load and weight.

Rules:
- Chance is an argument. A choice never waits.
- A weight of 2 means twice the load of a weight of 1.
- What a balancer remembers is kept by the target's name, never by the object: a target that a reload makes anew
  continues where the one of the same name stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Protocol


class Loaded(Protocol):
    """What a choice is made of."""

    @property
    def name(self) -> str:
        """The name of the backend behind this target: unique among the targets of one model."""

    @property
    def weight(self) -> float:
        """The share of requests this target should get, against the other targets' weights."""

    @property
    def in_flight(self) -> int:
        """Requests at the backend behind this target now."""


class Balancer(Protocol):
    """A way to choose."""

    def choose(self, targets: Sequence[Loaded]) -> int:
        """Return the index of the target that takes the next request; `targets` has at least one."""


class LeastLoaded:
    """The target with the fewest requests for its weight; among equals, chance. It remembers nothing."""

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        """`rng` decides among equals."""
        self._rng = rng

    def choose(self, targets: Sequence[Loaded]) -> int:
        """Return the index of the target with the least load for its weight."""
        loads = [(target.in_flight + 1) / target.weight for target in targets]
        least = min(loads)
        equals = [index for index, load in enumerate(loads) if load == least]
        return equals[0] if len(equals) == 1 else self._rng.choice(equals)


class RoundRobin:
    """Each target in turn, as often as its weight says, evenly spread: the smooth weighted rotation nginx uses."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        """Start with no credit for anybody."""
        self._credit: dict[str, float] = {}

    def choose(self, targets: Sequence[Loaded]) -> int:
        """Return the index of the target whose turn it is, and take note of the turn."""
        total = 0.0
        best, best_credit = 0, float("-inf")
        for index, target in enumerate(targets):
            credit = self._credit.get(target.name, 0.0) + target.weight
            self._credit[target.name] = credit
            total += target.weight
            if credit > best_credit:
                best, best_credit = index, credit
        self._credit[targets[best].name] -= total
        return best

    def keep(self, names: Collection[str]) -> None:
        """Forget every target whose name is not among `names`: it has left the config."""
        for name in self._credit.keys() - set(names):
            del self._credit[name]

"""Choices by load, weight and chance alone, whatever the request is.

Rules:
- A weight of 2 means twice the requests, or twice the load, of a weight of 1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from random import Random

from gateway.asked import Asked
from gateway.balance.loaded import Balancer, Loaded, Weighed, least, weighed_by_load


class LeastLoaded(Balancer):
    """The target with the fewest requests for its weight; among equals, chance. It remembers nothing."""

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        """`rng` decides among equals."""
        super().__init__()
        self._rng: Random = rng

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target with the least load for its weight."""
        return least(targets, None, now, self._rng)

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return the load of each target for its weight."""
        return weighed_by_load(targets, None, now)


class RoundRobin(Balancer):
    """Each target in turn, as often as its weight says, evenly spread: the smooth weighted rotation nginx uses."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        """Start with no credit for anybody."""
        super().__init__()
        self._credit: dict[str, float] = {}

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target whose turn it is, and take note of the turn."""
        best, earned, total = self._turn(targets)
        for index in range(len(targets)):
            self._credit[targets[index].name] = earned[index]
        self._credit[targets[best].name] -= total
        return best

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return the credit of each target, and whose turn it is."""
        best, earned, _ = self._turn(targets)
        return [
            Weighed(credit, "its credit: the highest one's turn it is", float(index == best))
            for index, credit in enumerate(earned)
        ]

    def _turn(self, targets: Sequence[Loaded]) -> tuple[int, list[float], float]:
        """Return the index of the target whose turn it is, the credit of each for this turn, and the sum of weights."""
        best, best_credit, total = 0, float("-inf"), 0.0
        earned: list[float] = []
        for index in range(len(targets)):
            target = targets[index]
            weight = target.weight
            total += weight
            credit = self._credit.get(target.name, 0.0) + weight
            earned.append(credit)
            if credit > best_credit:
                best, best_credit = index, credit
        return best, earned, total

    def keep(self, names: Collection[str]) -> None:
        """Forget every target whose name is not among `names`: it has left the config."""
        for name in self._credit.keys() - set(names):
            del self._credit[name]


class Chance(Balancer):
    """Any target, by chance alone. It remembers nothing."""

    __slots__ = ("_by_weight", "_rng")

    def __init__(self, rng: Random, by_weight: bool) -> None:
        """`by_weight`: as often as the weights say; else all alike, but for a target that starts slowly."""
        super().__init__()
        self._rng: Random = rng
        self._by_weight: bool = by_weight

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index that chance decides on."""
        return by_sums(running_sums(self._parts(targets)), self._rng.random())

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return the part of each target in what is drawn from."""
        parts = self._parts(targets)
        total = running_sums(parts)[-1]
        return [Weighed(part, "drawn by chance, as often as this says", part / total) for part in parts]

    def _parts(self, targets: Sequence[Loaded]) -> list[float]:
        if self._by_weight:
            return [target.weight for target in targets]
        return [target.weight / target.share for target in targets]


class TwoChoices(Balancer):
    """The less loaded of two targets that are drawn by weight: what many gateways side by side choose best by.

    Gateways that all take the least loaded target, by the same numbers that are some seconds old, all take the same.
    """

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        """`rng` draws the two."""
        super().__init__()
        self._rng: Random = rng

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the less loaded one of two."""
        if len(targets) == 1:
            return 0
        first, second = two(targets, self._rng)
        one, other = targets[first], targets[second]
        return second if _load_of(other, now) < _load_of(one, now) else first

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return the load of each target for its weight."""
        loads = [_load_of(target, now) for target in targets]
        words = "requests there for its weight: the lower one of two that are drawn by weight"
        return [
            Weighed(load, words, chance)
            for load, chance in zip(loads, chances_of_two(targets, loads), strict=True)
        ]


def _load_of(target: Loaded, now: float) -> float:
    return target.load(now) / target.weight


def running_sums(parts: list[float]) -> list[float]:
    """Return the sums of the first, the first two, ... numbers."""
    sums: list[float] = []
    total = 0.0
    for part in parts:
        total += part
        sums.append(total)
    return sums


def by_sums(sums: list[float], chance: float) -> int:
    """Return the index whose part `chance`, from 0 up to 1, falls into."""
    return min(bisect_right(sums, chance * sums[-1]), len(sums) - 1)


def two(targets: Sequence[Loaded], rng: Random) -> tuple[int, int]:
    """Return the indexes of two targets of at least two, drawn by weight one after the other."""
    weights = [target.weight for target in targets]
    first = by_sums(running_sums(weights), rng.random())
    weights[first] = 0.0
    second = by_sums(running_sums(weights), rng.random())
    if second == first:
        # Rounding at the very end of the last part.
        second = first - 1 if first else 1
    return first, second


def chances_of_two(targets: Sequence[Loaded], costs: list[float]) -> list[float]:
    """Return how likely each target has the lower cost of the two that `two` draws; of equals the first one has."""
    if len(targets) == 1:
        return [1.0]
    weights = [target.weight for target in targets]
    total = running_sums(weights)[-1]
    chances = [0.0] * len(targets)
    for first in range(len(targets)):
        for second in range(len(targets)):
            if second != first:
                taken = second if costs[second] < costs[first] else first
                chances[taken] += weights[first] / total * weights[second] / (total - weights[first])
    return chances

"""What a choice among targets is made of, and what a way to choose is.

Rules:
- Chance, time and the request are arguments. A choice never waits, and the same arguments give the same choice.
- What a balancer remembers is kept by the target's name, never by the object: a target that a reload makes anew
  continues where the one of the same name stopped.
- Each process chooses by what it has seen itself. Workers of one gateway share nothing here but what engines tell.
- What a balancer would weigh can be asked at any time (`weigh`), by the code that chooses; asking changes no choice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.asked import Asked
from gateway.telemetry.cells import Value

_CERTAIN: Final = 1.0 - 1e-9
"""A chance that is only below 1 because sums are rounded."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Loaded:
    """A target as far as balancers look at it. `now` is the event loop's time."""

    __slots__ = ("name", "share")

    def __init__(self, name: str, share: float = 1.0) -> None:
        """`name` is unique among the targets of one model; `share` is its weight as the config has it."""
        self.name: str = name
        self.share: float = share

    @property
    def weight(self) -> float:
        """The share of requests it should get now, against the other targets' weights. More than 0."""
        raise NotImplementedError

    @property
    def generation(self) -> int:
        """A number that is another one whenever its engine may have lost what it had in memory."""
        raise NotImplementedError

    def load(self, now: float) -> float:
        """Return how many requests are at the backend: our own, and those of others as far as the engine tells."""
        raise NotImplementedError


class Weighed:
    """What a balancer would weigh for one target."""

    __slots__ = ("chance", "score", "words")

    def __init__(self, score: float | None, words: str, chance: float) -> None:
        """Take the number that is compared; None where it has none. `words` say what it is, `chance` what follows."""
        self.score: float | None = score
        self.words: str = words
        self.chance: float = 1.0 if chance > _CERTAIN else chance
        """How likely the target would be chosen, from 0 to 1. It is 1 where nothing but this target can be chosen."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Balancer:
    """A way to choose."""

    __slots__ = ("hears", "note", "policy")

    def __init__(self) -> None:
        self.policy: str = ""
        """What the config calls it."""
        self.hears: bool = False
        """Whether it wants to know how long first tokens take: `answered` and `waited` are called then."""
        self.note: str = ""
        """What became of affinity in the last choice: `hit`, `miss` or `moved`; empty where there is none."""

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target that takes a request.

        `targets` has at least one. `asked` is what the request asks for; None where nothing is known of it.
        """
        raise NotImplementedError

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return what `choose` would weigh for each of the targets, in their order. Nothing is remembered of it."""
        raise NotImplementedError

    def answered(self, name: str, seconds: float, now: float) -> None:
        """Take note that the first token of a stream came from this target after so many seconds."""

    def waited(self, name: str, seconds: float, now: float) -> None:
        """Take note that a stream has ended without a first token after so many seconds."""

    def keep(self, names: Collection[str]) -> None:
        """Forget every target whose name is not among `names`: it has left the config."""


class Outcomes:
    """How often requests found the backend that knows them: the numbers of one model."""

    __slots__ = ("hit", "miss", "moved")

    def __init__(self, hit: Value, miss: Value, moved: Value) -> None:
        self.hit: Value = hit
        """They went where they, or their like, had been before."""
        self.miss: Value = miss
        """They, or their like, had not been anywhere before."""
        self.moved: Value = moved
        """They had been somewhere before, and that backend could not be used or had too much to do."""

    def count(self, note: str) -> None:
        """Count one outcome, called as `Balancer.note` has it; the empty one is not counted."""
        if note == "hit":
            self.hit.value += 1
        elif note == "miss":
            self.miss.value += 1
        elif note == "moved":
            self.moved.value += 1


def least(targets: Sequence[Loaded], among: list[int] | None, now: float, rng: Random) -> int:
    """Return the index of the target with the fewest requests for its weight; among equals, chance.

    `among` are the indexes to choose from, at least one; None for all. Idle targets are drawn by weight: otherwise
    requests that come one after the other would all go to the target with the largest weight, and one with a very small
    weight would never get any while the others have something to do.
    """
    equals, idle, idle_weight, part = _compared(targets, among, now)
    if idle and (part == 1.0 or rng.random() < part):
        return drawn(targets, idle, idle_weight, rng)
    return equals[0] if len(equals) == 1 else equals[int(rng.random() * len(equals))]


def weighed_by_load(
    targets: Sequence[Loaded], among: list[int] | None, now: float, words: Sequence[str] = ()
) -> list[Weighed]:
    """Return what `least` would weigh for each of the targets; `words` are what else there is to say of each."""
    equals, idle, idle_weight, part = _compared(targets, among, now)
    chances = [0.0] * len(targets)
    for index in idle:
        chances[index] = part * targets[index].weight / idle_weight
    for index in equals:
        chances[index] += (1.0 - part) / len(equals)
    found: list[Weighed] = []
    for index, target in enumerate(targets):
        load, weight = target.load(now), target.weight
        said = f"{load:.4g} requests there and this one, for a weight of {weight:.4g}: the least goes first"
        if words:
            said = f"{words[index]}; {said}"
        found.append(Weighed((load + 1.0) / weight, said, chances[index]))
    return found


def _compared(
    targets: Sequence[Loaded], among: list[int] | None, now: float
) -> tuple[list[int], list[int], float, float]:
    """Compare targets by their load for their weight.

    Return the indexes with the least load, those that are idle, the sum of the weights of the idle ones, and the chance
    that one of them is drawn by weight instead.
    """
    best = float("inf")
    best_load = 0.0
    equals: list[int] = []
    idle: list[int] = []
    idle_weight = all_weight = 0.0
    for index in range(len(targets)) if among is None else among:
        target = targets[index]
        load, weight = target.load(now), target.weight
        all_weight += weight
        if load == 0.0:
            idle.append(index)
            idle_weight += weight
        score = (load + 1.0) / weight
        if score < best:
            best, best_load = score, load
            equals = [index]
        elif score == best:
            equals.append(index)
    part = 0.0 if not idle else 1.0 if best_load == 0.0 else idle_weight / all_weight
    return equals, idle, idle_weight, part


def drawn(targets: Sequence[Loaded], among: list[int], total: float, rng: Random) -> int:
    """Return one of the indexes `among`, drawn by weight; `total` is the sum of these targets' weights."""
    if len(among) == 1:
        return among[0]
    left = rng.random() * total
    for index in among:
        left -= targets[index].weight
        if left < 0.0:
            return index
    return among[-1]

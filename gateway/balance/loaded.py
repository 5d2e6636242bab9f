"""What a choice among targets is made of, and what a way to choose is.

Rules:
- Chance, time and the request are arguments. A choice never waits, and the same arguments give the same choice.
- What a balancer remembers is kept by the target's name, never by the object: a target that a reload makes anew
  continues where the one of the same name stopped.
- Each process chooses by what it has seen itself. Workers of one gateway share nothing here but what engines tell.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from mypy_extensions import mypyc_attr

from gateway.asked import Asked
from gateway.telemetry.cells import Value


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


@mypyc_attr(allow_interpreted_subclasses=True)
class Balancer:
    """A way to choose."""

    __slots__ = ("hears", "note")

    def __init__(self) -> None:
        self.hears: bool = False
        """Whether it wants to know how long first tokens take: `answered` and `waited` are called then."""
        self.note: str = ""
        """What became of affinity in the last choice: `hit`, `miss` or `moved`; empty where there is none."""

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target that takes a request.

        `targets` has at least one. `asked` is what the request asks for; None where nothing is known of it.
        """
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
    if idle and (best_load == 0.0 or rng.random() * all_weight < idle_weight):
        return drawn(targets, idle, idle_weight, rng)
    return equals[0] if len(equals) == 1 else equals[int(rng.random() * len(equals))]


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

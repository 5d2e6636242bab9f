"""Choices that keep a session where it is: rendezvous hashing, bounded loads, and what was chosen before.

Rules:
- A session stays where it is while that backend may be used and has room. A session that is new, or has to move, goes
  where weighted rendezvous hashing puts it: to the same backend in every process, and after a restart.
- Where a backend leaves, only its sessions move, each to a place of its own; where one joins, only some move to it.
- A request that names no session goes where the load is least.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random
from typing import Final

from gateway.asked import Asked
from gateway.balance.bound import Bound
from gateway.balance.loaded import Balancer, Loaded, Outcomes, Weighed, least, weighed_by_load
from gateway.balance.sessions import Source, number, session

REMEMBERED: Final = 100_000
"""Sessions of a model that are remembered; the one that was not seen for longest is forgotten first."""
_MASK: Final = (1 << 64) - 1
_UNIT: Final = 1.0 / (1 << 53)


class Session(Balancer):
    """The backend where a session has been, or where its hash puts it."""

    __slots__ = ("_bound", "_homes", "_outcomes", "_rng", "_seeds", "_sources")

    def __init__(self, sources: tuple[Source, ...], bound: Bound, outcomes: Outcomes, rng: Random) -> None:
        """`rng` decides among equals for requests without a session."""
        super().__init__()
        self._sources: tuple[Source, ...] = sources
        self._bound: Bound = bound
        self._outcomes: Outcomes = outcomes
        self._rng: Random = rng
        self._homes: dict[int, str] = {}
        """Where each session was last; the one seen last stands last."""
        self._seeds: dict[str, int] = {}

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the session's target."""
        which = 0 if asked is None else session(self._sources, asked)
        if not which:
            self.note = ""
            return least(targets, None, now, self._rng)
        self._bound.begin(targets, now)
        homes = self._homes
        home = homes.pop(which, "")
        found = self._at_home(targets, home)
        if found >= 0:
            self.note = "hit"
        else:
            self.note = "moved" if home else "miss"
            found = self._hashed(targets, which)
        homes[which] = targets[found].name
        if len(homes) > REMEMBERED:
            del homes[next(iter(homes))]
        self._outcomes.count(self.note)
        return found

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return how much a session prefers each target, and where it has been."""
        which = 0 if asked is None else session(self._sources, asked)
        if not which:
            return weighed_by_load(targets, None, now, ["the request names no session"] * len(targets))
        self._bound.begin(targets, now)
        home = self._homes.get(which, "")
        chosen = self._at_home(targets, home)
        if chosen < 0:
            chosen = self._hashed(targets, which)
        found: list[Weighed] = []
        for index in range(len(targets)):
            target = targets[index]
            words = (
                "the session was here last"
                if target.name == home
                else "by the session's hash, the least first"
            )
            if not self._bound.room(target):
                words += "; it has too much to do for it"
            found.append(Weighed(self._distance(target, which), words, float(index == chosen)))
        return found

    def keep(self, names: Collection[str]) -> None:
        """Forget every target whose name is not among `names`: it has left the config."""
        for name in self._seeds.keys() - set(names):
            del self._seeds[name]

    def _at_home(self, targets: Sequence[Loaded], home: str) -> int:
        """Return the index of a session's target if it has room; else -1."""
        if home:
            for index in range(len(targets)):
                target = targets[index]
                if target.name == home:
                    return index if self._bound.room(target) else -1
        return -1

    def _hashed(self, targets: Sequence[Loaded], which: int) -> int:
        """Return the index of the first target with room, in the order in which a session prefers them."""
        best, least_distance = 0, math.inf
        for index in range(len(targets)):
            target = targets[index]
            distance = self._distance(target, which)
            if distance < least_distance and self._bound.room(target):
                best, least_distance = index, distance
        return best

    def _distance(self, target: Loaded, which: int) -> float:
        """Return how far a target is from a session."""
        seed = self._seeds.get(target.name, 0)
        if not seed:
            seed = self._seeds[target.name] = number(target.name)
        # Exponential races: whoever has the shortest time wins, as often as its weight says.
        unit = (_mixed(which ^ seed) + 0.5) * _UNIT
        return -math.log(unit) / target.weight


def _mixed(bits: int) -> int:
    """Return a number of 53 bits in which every bit of `bits` has its part: the finish of SplitMix64."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return (bits ^ (bits >> 31)) >> 11

"""Choices by the time to the first token: the peak EWMA of Finagle and Linkerd, weighed by the requests under way.

Rules:
- A time that is worse than the average replaces it at once; a better one moves it slowly. So a backend that has become
  slow is left at the first sign, and trusted again little by little.
- An average that nobody adds to decays to nothing within a minute, so that a backend which was slow is tried again.
- A backend of which nothing is known gets one request at a time until it has answered.
- Only streams count: of an answer in one piece nobody sees when it began.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random
from typing import Final

from gateway.asked import Asked
from gateway.balance.basic import chances_of_two, two
from gateway.balance.loaded import Balancer, Loaded, Weighed

DECAY: Final = 10.0
"""Seconds after which an old time has a weight of 1/e."""
_FORGOTTEN: Final = 1e-6
"""Seconds below which an average says nothing any more."""
_UNKNOWN: Final = 1e9
"""The cost of a backend of which nothing is known but that a request is there."""


class PeakEwma:
    """The time to the first token at one backend: at its peaks, and averaged from there downwards."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._seconds: float = 0.0
        self._at: float = 0.0

    def at(self, now: float) -> float:
        """Return the average in seconds; 0 where nothing is known."""
        decayed = self._seconds * math.exp(-max(0.0, now - self._at) / DECAY)
        return decayed if decayed > _FORGOTTEN else 0.0

    def add(self, seconds: float, now: float) -> None:
        """Take note of one first token."""
        if seconds >= self._seconds:
            self._seconds = seconds
        else:
            old = math.exp(-max(0.0, now - self._at) / DECAY)
            self._seconds = self._seconds * old + seconds * (1.0 - old)
        self._at = now


class Latency(Balancer):
    """Of two targets that are drawn by weight, the one where the first token should come sooner."""

    __slots__ = ("_rng", "_times")

    def __init__(self, rng: Random) -> None:
        """`rng` draws the two."""
        super().__init__()
        self.hears = True
        self._rng: Random = rng
        self._times: dict[str, PeakEwma] = {}

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target with the lower cost of two."""
        if len(targets) == 1:
            return 0
        first, second = two(targets, self._rng)
        return second if self.cost(targets[second], now) < self.cost(targets[first], now) else first

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return the cost of each target, in seconds where that is known."""
        costs = [self.cost(target, now) for target in targets]
        chances = chances_of_two(targets, costs)
        found: list[Weighed] = []
        for index, cost in enumerate(costs):
            if cost == 0.0:
                found.append(
                    Weighed(cost, "no first token is known of lately, so it may be tried", chances[index])
                )
            elif cost >= _UNKNOWN:
                words = (
                    "no first token is known of lately, and it has a request, so every other one goes first"
                )
                found.append(Weighed(None, words, chances[index]))
            else:
                words = "expected seconds to a first token: the lower one of two that are drawn by weight"
                found.append(Weighed(cost, words, chances[index]))
        return found

    def cost(self, target: Loaded, now: float) -> float:
        """Return the expected seconds to a first token: the average, times the requests that share the backend."""
        load = target.load(now) / target.weight
        times = self._times.get(target.name)
        seconds = 0.0 if times is None else times.at(now)
        if seconds == 0.0:
            return _UNKNOWN + load if load else 0.0
        return seconds * (load + 1.0)

    def answered(self, name: str, seconds: float, now: float) -> None:
        """Take note that the first token of a stream came from this target after so many seconds."""
        times = self._times.get(name)
        if times is None:
            times = self._times[name] = PeakEwma()
        times.add(seconds, now)

    def waited(self, name: str, seconds: float, now: float) -> None:
        """Take note of a wait in vain: the first token would have taken longer. A short one says nothing."""
        times = self._times.get(name)
        if times is None or seconds > times.at(now):
            self.answered(name, seconds, now)

    def keep(self, names: Collection[str]) -> None:
        """Forget every target whose name is not among `names`: it has left the config."""
        for name in self._times.keys() - set(names):
            del self._times[name]

"""Choices that send prompts which begin alike to the backend that has their beginning in its cache.

Rules:
- The longest known start decides; of several backends that know it, the one with the least load. Affinity gives way
  where the backend has too much to do (`gateway.balance.bound`).
- A start that many go on from is common: a system prompt, a template. Each backend that knows it may take its own share
  of all requests for it; beyond that another one learns it. So a prompt that all share ends up everywhere, and one that
  few share stays where it is. What an application's requests share is common at once, a conversation only after several
  requests have gone on from the same place: an agent that asks a few things at once stays together.
- A backend knows nothing after it restarted, slept or moved: it has another generation then.
- Memory is bounded: the start that was not seen for longest is forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.asked import Asked
from gateway.balance.bound import Bound
from gateway.balance.loaded import Balancer, Loaded, Outcomes, Weighed, least, weighed_by_load
from gateway.balance.prompt import Starts, starts

REMEMBERED: Final = 100_000
"""Starts of a model's prompts that are remembered: about 20 MB."""
SEVERAL: Final = 8.0
"""Requests that may go on from one place of a conversation before it counts as common."""
HALF_LIFE: Final = 1024.0
"""Requests after which one that went on from a start counts half."""


class Start:
    """The backends that know a start, and how many requests went on from there."""

    __slots__ = ("_at", "_count", "_holders")

    def __init__(self) -> None:
        self._holders: dict[str, int] | None = None
        """Backend to its generation when it learned the start."""
        self._count: float = 0.0
        self._at: int = 0

    def held_by(self, target: Loaded) -> bool:
        """Tell whether a backend knows this start."""
        holders = self._holders
        return holders is not None and holders.get(target.name, -1) == target.generation

    def learn(self, target: Loaded) -> None:
        """Take note that a backend gets a prompt with this start."""
        if self._holders is None:
            self._holders = {target.name: target.generation}
        else:
            self._holders[target.name] = target.generation

    def counted(self, request: int) -> float:
        """Return how many requests went on from here lately, with one more whose number is `request`."""
        return self._count * _decayed(request - self._at) + 1.0

    def count(self, request: int) -> None:
        """Count one more request that goes on from here; `request` is its number."""
        self._count = self.counted(request)
        self._at = request


class Prefix(Balancer):
    """The backend that has the beginning of a prompt in its cache."""

    __slots__ = ("_bound", "_number", "_outcomes", "_recent", "_rng", "_starts", "remembered")

    def __init__(self, bound: Bound, outcomes: Outcomes, rng: Random) -> None:
        """`rng` decides among equals."""
        super().__init__()
        self.remembered: int = REMEMBERED
        """Starts of prompts that are known at once."""
        self._bound: Bound = bound
        self._outcomes: Outcomes = outcomes
        self._rng: Random = rng
        self._starts: dict[int, Start] = {}
        """By number; the one that was seen last stands last."""
        self._number: int = 0
        self._recent: float = 0.0
        """The requests lately, each counted as in `Start.count`."""

    def choose(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> int:
        """Return the index of the target that knows most of the prompt."""
        prompt = None if asked is None else starts(asked)
        if prompt is None or not prompt.numbers:
            self.note = ""
            return least(targets, None, now, self._rng)
        self._number += 1
        self._recent = self._recent * _decayed(1) + 1.0
        self._bound.begin(targets, now)
        found, self.note, start = self._known(targets, prompt, self._number, self._recent)
        if start is not None:
            start.count(self._number)
        index = least(targets, found, now, self._rng)
        self._learn(prompt, targets[index])
        self._outcomes.count(self.note)
        return index

    def weigh(self, targets: Sequence[Loaded], asked: Asked | None, now: float) -> list[Weighed]:
        """Return how much of the prompt each target knows, and its load."""
        prompt = None if asked is None else starts(asked)
        if prompt is None or not prompt.numbers:
            return weighed_by_load(targets, None, now, ["there is no prompt to look at"] * len(targets))
        self._bound.begin(targets, now)
        found, note, _ = self._known(targets, prompt, self._number + 1, self._recent * _decayed(1) + 1.0)
        words: list[str] = []
        for target in targets:
            said = f"knows {self._depth(target, prompt)} of the prompt's {len(prompt.numbers)} starts"
            if not self._bound.room(target):
                said += ", has too much to do for that"
            elif found is None and note == "miss":
                said += ", and any may learn it"
            words.append(said)
        return weighed_by_load(targets, found, now, words)

    def _depth(self, target: Loaded, prompt: Starts) -> int:
        """Return how many starts of a prompt, up to the longest that it knows, a target has in its cache."""
        numbers = prompt.numbers
        for depth in range(len(numbers), 0, -1):
            start = self._starts.get(numbers[depth - 1])
            if start is not None and start.held_by(target):
                return depth
        return 0

    def _known(
        self, targets: Sequence[Loaded], prompt: Starts, request: int, recent: float
    ) -> tuple[list[int] | None, str, Start | None]:
        """Find the targets with room that know the longest start.

        `request` is the number of the request, `recent` how many there were lately. Return the indexes, None where any
        target should learn the start; what that means for the request; and the start it goes on from, if there is one.
        """
        note = "miss"
        goes_on: Start | None = None
        bound, numbers = self._bound, prompt.numbers
        for depth in range(len(numbers) - 1, -1, -1):
            start = self._starts.get(numbers[depth])
            if start is None:
                continue
            roomy: list[int] = []
            weight = 0.0
            for index in range(len(targets)):
                target = targets[index]
                if start.held_by(target):
                    weight += target.weight
                    if bound.room(target):
                        roomy.append(index)
            if weight == 0.0:
                continue
            if goes_on is None:
                # Only the longest start that anybody knows: that is where this request goes on from.
                goes_on = start
                several = 1.0 if prompt.shared and depth == 0 else SEVERAL
                count = start.counted(request)
                if count > several and count > recent * bound.part(weight):
                    return None, "miss", start
            if roomy:
                return roomy, "hit", goes_on
            note = "moved"
        return None, note, goes_on

    def _learn(self, prompt: Starts, target: Loaded) -> None:
        known = self._starts
        for number in prompt.numbers:
            start = known.pop(number, None)
            if start is None:
                start = Start()
            start.learn(target)
            known[number] = start
        while len(known) > self.remembered:
            del known[next(iter(known))]


def _decayed(requests: int) -> float:
    """Return what a request counts after so many others."""
    return float(0.5 ** (requests / HALF_LIFE))

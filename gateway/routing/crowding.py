"""Whether a model is too busy for more requests, with hysteresis: the signal that sends requests elsewhere.

Rules:
- One bound that is passed is enough. All signals must have been below `RELIEF` of theirs for a while before it is over.
- The best backend counts: while one has room there is room.
- Requests of the class `background`, such as the lines of batches, crowd nobody out here: all others go before them.
  What an engine measures of itself counts whoever it is of, since it holds everybody up.
- A signal that is not known passes no bound: missing is never busy, nor idle. No backend that can be used is busy.
- What a cloud has told of its rate limit is known until that is filled up again, and then not.
- Time is an argument. Looking costs as much as there are targets, so it is done `PERIOD` seconds apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.admission.pace import UNKNOWN
from gateway.config.route import Overflow
from gateway.fleet.lease import Target
from gateway.routing.catalog import Plan

RELIEF: Final = 0.8
"""The part of each bound below which there is room again."""
PERIOD: Final = 0.02
"""Seconds for which a look is good."""


class _State:
    """Whether one model is too busy, as of the last look."""

    __slots__ = ("busy_at", "crowded", "looked_at")

    def __init__(self) -> None:
        self.crowded = False
        self.busy_at = 0.0
        """When it was last not below all of the bounds' `RELIEF`."""
        self.looked_at = float("-inf")


class Crowding:
    """Whether the models of one rule are too busy. It outlives the config that names its bounds."""

    def __init__(self) -> None:
        """Start with room."""
        self.bounds = Overflow()
        self.hold = 0.0
        """Seconds of relief after which requests go home again."""
        self._states: dict[str, _State] = {}

    def judge(self, home: Plan, now: float) -> bool:
        """Tell whether requests for this plan go elsewhere at `now`, the loop's time."""
        state = self._states.get(home.model)
        if state is None:
            state = self._states[home.model] = _State()
        if now - state.looked_at < PERIOD:
            return state.crowded
        state.looked_at = now
        fullest = max([level for _, level, _, _ in self._levels(home, now)], default=0.0)
        if fullest >= RELIEF:
            state.busy_at = now
        if fullest >= 1.0:
            state.crowded = True
        elif state.crowded and now - state.busy_at >= self.hold:
            state.crowded = False
        return state.crowded

    def words(self, home: Plan, now: float) -> list[str]:
        """Return each signal with its bound in words, and what follows."""
        lines = [f"{name} is {shown}, the bound {bound}" for name, _, shown, bound in self._levels(home, now)]
        return [*lines, "it is too busy" if self.judge(home, now) else "there is room"]

    def _levels(self, home: Plan, now: float) -> Iterator[tuple[str, float, str, str]]:
        """Yield each signal that is known: its name, its part of its bound, itself and its bound in words."""
        bounds = self.bounds
        usable = [target for target in home.groups[0].targets if target.backend.usable]
        if not usable:
            yield "the number of backends that are up", 1.0, "0", "1"
            return
        gate = home.gate
        if bounds.wait is not None and gate is not None:
            wait = 0.0 if gate.has_room else gate.wait(gate.pressing + 1)
            if wait != UNKNOWN:
                yield "the estimated wait", wait / bounds.wait, f"{wait:.3g} s", f"{bounds.wait:g} s"
        if bounds.queue is not None:
            waiting = (0 if gate is None else gate.pressing) + min(
                [_waiting(target, now) for target in usable]
            )
            yield "the queue", waiting / bounds.queue, f"{waiting:g}", f"{bounds.queue}"
        if bounds.in_flight is not None:
            least = min([target.pressing for target in usable])
            yield (
                "the number of requests in flight",
                least / bounds.in_flight,
                f"{least}",
                f"{bounds.in_flight}",
            )
        if bounds.kv_use is not None:
            uses = [target.backend.load.kv_use(now) for target in usable]
            known = [use for use in uses if use is not None]
            if known and len(known) == len(uses):
                yield (
                    "the KV cache in use",
                    min(known) / bounds.kv_use,
                    f"{min(known):.0%}",
                    f"{bounds.kv_use:.0%}",
                )
        if bounds.remaining is not None:
            left = [None if (kept := target.backend.quota) is None else kept.left(now) for target in usable]
            told = [count for count in left if count is not None]
            if told and len(told) == len(left):
                most = max(told)
                level = bounds.remaining / most if most else float("inf")
                yield "the number of requests that are left", level, f"{most:g}", f"{bounds.remaining}"


def _waiting(target: Target, now: float) -> float:
    """Return how many requests wait at a backend: for one of its slots here, and in its engine as far as is known."""
    gate = target.backend.gate
    return (gate.pressing if gate is not None else 0) + (target.backend.load.waiting(now) or 0.0)

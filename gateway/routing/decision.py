"""Where one request goes, and why: the result of the rules, kept for headers, metrics and questions.

Rules:
- What decides is an argument: the request, the moment, chance. The same three give the same decision.
- Every decision has an id that a client is told. The last ones can be looked up by it.
- A decision keeps nothing of the request's body.
"""

from __future__ import annotations

from binascii import hexlify
from collections import deque
from os import urandom
from random import Random
from typing import Final, TypeAlias

from gateway.routing.canaries import LiveCanary
from gateway.routing.catalog import Plan

KEPT: Final = 1000
"""Decisions that can be looked up."""
Noted: TypeAlias = tuple[LiveCanary | None, bool, Plan | None]
"""The trial, whether it is the canary's turn, and the shadow of a decision."""


class Moment:
    """When a decision is made, and with what chance."""

    __slots__ = ("now", "rng", "wall")

    def __init__(self, now: float, wall: float, rng: Random) -> None:
        """`now` is the event loop's time, `wall` seconds since the epoch."""
        self.now: float = now
        self.wall: float = wall
        self.rng: Random = rng


class Decision:
    """Where one request goes.

    `asked_for` is the name the client asked for, `rule` the name of the rule that decided, empty where none did.
    `reason` is from a closed set: how the plan was chosen. `plan` is what the request is served by. `trial` is the
    canary that its outcome counts for, None for most; `is_canary` whether it goes to the canary's own model. `shadow`
    is what answers a copy of it too; None for most.
    """

    __slots__ = ("asked_for", "at", "id", "is_canary", "plan", "reason", "rule", "shadow", "trial")

    def __init__(self, id: bytes, asked_for: str, rule: str, at: float) -> None:
        """Begin a decision at `at`, seconds since the epoch."""
        self.id: bytes = id
        self.asked_for: str = asked_for
        self.rule: str = rule
        self.at: float = at
        self.reason: str = "name"
        self.plan: Plan
        self.trial: LiveCanary | None = None
        self.is_canary: bool = False
        self.shadow: Plan | None = None

    def noted(self) -> Noted:
        """Return what choices have noted so far beside the plan, for `note`."""
        return self.trial, self.is_canary, self.shadow

    def note(self, noted: Noted) -> None:
        """Go back to what was noted before, where a choice was asked and not followed."""
        self.trial, self.is_canary, self.shadow = noted

    def told(self) -> dict[str, object]:
        """Return the decision as plain values."""
        return {
            "id": self.id.decode(),
            "time": self.at,
            "asked_for": self.asked_for,
            "rule": self.rule or None,
            "reason": self.reason,
            "model": self.plan.model,
        }


class Decisions:
    """The decisions of this process: gives each its id, and keeps the last ones."""

    __slots__ = ("_count", "_last", "_prefix")

    def __init__(self, prefix: bytes = b"") -> None:
        """Begin every id with `prefix`; empty: with four random digits, so that those of two processes differ."""
        self._prefix: bytes = prefix or hexlify(urandom(2))
        self._count: int = 0
        self._last: deque[Decision] = deque(maxlen=KEPT)

    def begin(self, asked_for: str, rule: str, at: float) -> Decision:
        """Return a new decision with an id of its own."""
        self._count += 1
        return Decision(b"%s-%x" % (self._prefix, self._count), asked_for, rule, at)

    def keep(self, decision: Decision) -> None:
        """Keep a decision that was made, as the last one."""
        self._last.append(decision)

    def find(self, id: str) -> Decision | None:
        """Return the decision with this id; None if it is not among the last ones."""
        wanted = id.encode("utf-8", "replace")
        return next((decision for decision in reversed(self._last) if decision.id == wanted), None)

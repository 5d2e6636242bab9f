"""How many requests a cloud still takes from us, as the head of its last answer tells.

Rules:
- It is kept only for backends that some rule of the config looks at; heads of others are not read for it.
- What was told is believed until the time at which the limit is filled up again; where that is not told, for `UNTOLD`
  seconds. After that nothing is known.
- Each process knows of the answers that it has had itself.
"""

from __future__ import annotations

from typing import Final

from backends.base import Headers
from backends.dialect.waits import remaining

UNTOLD: Final = 60.0
"""Seconds for which a number is believed that comes without the time of its end: limits are per minute mostly."""


class Quota:
    """What one backend has told last."""

    __slots__ = ("_left", "_until")

    def __init__(self) -> None:
        """Know nothing."""
        self._left: float = 0.0
        self._until: float = 0.0

    def take(self, headers: Headers, now: float) -> None:
        """Take note of the head of an answer at `now`, the loop's time. One that tells nothing changes nothing."""
        told = remaining(headers)
        if told is not None:
            left, reset = told
            self._left, self._until = left, now + (UNTOLD if reset is None else reset)

    def left(self, now: float) -> float | None:
        """Return how many requests are left; None where that is not known, or not any more."""
        return self._left if now < self._until else None

    def forget(self) -> None:
        """Know nothing any more."""
        self._until = 0.0

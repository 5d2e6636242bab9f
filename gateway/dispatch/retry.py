"""Whether a failed attempt may be followed by another. Pure decisions.

Rules:
- Only before the client has received content, only for failures another backend may not have, only while time is left.
- Attempts beyond the first come out of one budget for all requests, so that retries cannot multiply an outage.
"""

from __future__ import annotations

from backends.base import Failure
from gateway.errors import may_go_elsewhere

MIN_USEFUL = 0.05
"""Seconds that must be left for another attempt to make sense."""


def may_retry(failure: Failure, attempts: int, most: int, left: float) -> bool:
    """Another attempt makes sense after `attempts` of at most `most`, with `left` seconds to the deadline."""
    return attempts < most and left >= MIN_USEFUL and may_go_elsewhere(failure)


class Budget:
    """How many requests may be in a second or later attempt at once: a share of those active, but a few always."""

    __slots__ = ("_floor", "_retrying", "active", "share")

    def __init__(self, share: float = 0.2, floor: int = 3) -> None:
        self.share = share
        """The share of the active requests; may be changed at any time."""
        self._floor = floor
        self._retrying = 0
        self.active = 0
        """Requests in the gateway now."""

    def take(self) -> bool:
        """One more request retries from now on; False if the budget is spent."""
        if self._retrying >= max(self._floor, self.share * self.active):
            return False
        self._retrying += 1
        return True

    def give_back(self) -> None:
        """A request that retried is over."""
        self._retrying -= 1

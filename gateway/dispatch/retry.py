"""The decision whether another attempt may follow a failed one. No I/O, no clock.

Rules:
- A retry is allowed only for failures that another backend may not have, and only while enough time is left. The caller
  makes sure that the client has not received any content.
- All requests share one budget for attempts after the second, so that retries cannot multiply the load of an outage.
  The first failover of a request is always allowed: without it one backend's failure would be every client's.
"""

from __future__ import annotations

from backends.base import Failure
from gateway.errors import may_go_elsewhere

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds before a loading backend is asked once more: the pause doubles each time, up to the longest."""
MIN_USEFUL = 0.05
"""Seconds that must be left until the deadline for another attempt to be worthwhile."""


def may_retry(failure: Failure, left: float) -> bool:
    """Tell whether to try elsewhere after `failure`, with `left` seconds until the deadline."""
    return left >= MIN_USEFUL and may_go_elsewhere(failure)


def loading_pause(asked: int, left: float) -> float:
    """Return the seconds until a backend that answers that it is loading is asked once more.

    `asked` is how often it has answered so already; `left` is how many seconds the request may still wait.
    """
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**asked, left)


class Budget:
    """The limit on requests that may be retrying at once: a share of the active ones, but at least `floor`."""

    __slots__ = ("_floor", "_retrying", "active", "share")

    def __init__(self, share: float = 0.2, floor: int = 3) -> None:
        self.share = share
        """The share of the active requests that may be retrying; may be changed at any time."""
        self._floor = floor
        self._retrying = 0
        self.active = 0
        """The number of requests that are dispatched now."""

    def take(self) -> bool:
        """Count one more retrying request and return True; return False if the budget is spent."""
        if self._retrying >= max(self._floor, self.share * self.active):
            return False
        self._retrying += 1
        return True

    def give_back(self) -> None:
        """Count one retrying request less, because it has ended."""
        self._retrying -= 1

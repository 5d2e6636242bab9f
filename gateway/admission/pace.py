"""How fast a gate lets requests in while some wait, measured; and what follows for those who wait.

Rules:
- Pure: time is an argument. Measured is the time from one entry to the next while somebody waits all the time.
- Nothing is guessed. Before enough was measured, and when that was long ago, the pace is unknown.
- A gate that lets nobody in is slow: the time since the last entry counts as soon as it is longer than usual.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

ENOUGH: Final = 8
"""Entries from which the pace is known."""
OLD: Final = 60.0
"""Seconds without anybody waiting after which what was measured is forgotten."""
UNKNOWN: Final = -1.0


class Pace:
    """The pace of one gate. Every `now` is in seconds of the same clock."""

    __slots__ = ("_entries", "_idle_since", "_last", "_measured", "_squares", "_time")

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._entries: float = 0.0
        """Entries that were measured; older ones count less."""
        self._time: float = 0.0
        """The seconds between them, with the same weights."""
        self._squares: float = 0.0
        """The squares of those seconds, with the same weights."""
        self._measured: int = 0
        self._last: float = -1.0
        """When somebody who waited entered last; -1 where nobody has since requests wait."""
        self._idle_since: float = 0.0

    def begin(self, now: float) -> None:
        """Take note that somebody begins to wait where nobody did."""
        if now - self._idle_since > OLD:
            self._entries = self._time = self._squares = 0.0
            self._measured = 0

    def rest(self, now: float) -> None:
        """Take note that nobody waits any more."""
        self._last = -1.0
        self._idle_since = now

    def entered(self, now: float, slots: int) -> None:
        """Take note that a request that waited has entered, through a gate with this many slots."""
        if self._last >= 0.0:
            # About the last four rounds of the slots: engines end requests in bursts.
            keep = 1.0 - 1.0 / min(max(16, 4 * slots), 4096)
            self._entries = self._entries * keep + 1.0
            passed = max(0.0, now - self._last)
            self._time = self._time * keep + passed
            self._squares = self._squares * keep + passed * passed
            self._measured += 1
        self._last = now

    def doubt(self, requests: int) -> float:
        """Return by how many seconds the time for so many entries is commonly wrong; 0 before enough was measured.

        Bursts are no doubt: beyond what chance alone makes of independent requests, differences are not counted.
        """
        if self._measured < ENOUGH:
            return 0.0
        usual = self._time / self._entries
        return sqrt(requests * min(max(0.0, self._squares / self._entries - usual * usual), usual * usual))

    def interval(self, now: float) -> float:
        """Return the seconds between two entries; `UNKNOWN` before enough was measured."""
        if self._measured < ENOUGH:
            return UNKNOWN
        usual = self._time / self._entries
        if self._last < 0.0:
            return usual
        return max(usual, (self._time + max(0.0, now - self._last)) / (self._entries + 1.0))

"""How late the event loop runs what is due: the time that everything else in this process waits.

Rules:
- A look costs a timer a quarter of a second, whatever the gateway does, and nothing per request.
- What is told is the longest delay of the last ten to twenty seconds, so that a scrape now and then does not miss it.
- The clock is that of timelines: the loop's own stands still while a turn lasts.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

EVERY: Final = 0.25
"""Seconds between two looks."""
WINDOW: Final = 10.0
"""Seconds after which what was seen is the window before."""


class Lag:
    """Looks at how late an event loop is."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._due = self._until = self._now = self._before = 0.0

    def start(self) -> None:
        """Look at the running loop from now on, until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._until = perf_counter() + WINDOW
        self._wait()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def longest(self) -> float:
        """The longest delay seen lately, in seconds; that of a look that is overdue now, too."""
        overdue = perf_counter() - self._due if self._due else 0.0
        return max(self._now, self._before, overdue)

    def _wait(self) -> None:
        self._due = perf_counter() + EVERY
        self._timer = self._loop.call_later(EVERY, self._look)

    def _look(self) -> None:
        now = perf_counter()
        if now >= self._until:
            self._before, self._now, self._until = self._now, 0.0, now + WINDOW
        self._now = max(self._now, now - self._due)
        self._wait()

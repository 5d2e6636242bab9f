"""Asking the engines for their models because somebody asks for one that nobody knows: it may just have been pulled.

Rules:
- All who ask while the engines are being asked wait for the same answers; nobody who leaves takes the question along.
- The engines are asked at most once in `EVERY` seconds, however many names clients try, and for `LONGEST` seconds.
- Each process of the gateway asks for itself: what it knows of the engines is its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

EVERY = 2.0
"""Seconds from one round of questions to the next."""
LONGEST = 2.0
"""Seconds that a round may take."""


class Discovery:
    """The rounds of questions to all engines."""

    def __init__(
        self, ask: Callable[[], Coroutine[Any, Any, None]], start: Callable[..., asyncio.Task[None]]
    ) -> None:
        """Ask nothing yet. `ask` asks every engine once; `start` makes a task of it that ends with the gateway."""
        self._ask = ask
        self._start = start
        self._round: asyncio.Task[None] | None = None
        self._next = 0.0

    def worthwhile(self, now: float) -> bool:
        """Tell whether engines are being asked, or may be asked again, at the loop's time `now`."""
        return self._round is not None or now >= self._next

    async def asked(self) -> None:
        """Wait until the engines have been asked: in the round under way, or in a new one."""
        if self._round is None:
            self._next = asyncio.get_running_loop().time() + EVERY
            self._round = self._start(self._bounded())
        await asyncio.wait([self._round])

    async def _bounded(self) -> None:
        try:
            async with asyncio.timeout(LONGEST):
                await self._ask()
        except TimeoutError:
            pass
        finally:
            self._round = None

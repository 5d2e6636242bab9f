"""The last lines that a launched engine printed, over all its starts, for whoever wants to read them.

Rules:
- What is kept is bounded in lines and in characters. The oldest line makes room for the newest.
- Who writes never waits for who reads. A reader says which line it had last; where lines after that one are gone by
  now, it is told how many.
- Each start and each end of the engine is a line of its own kind among the others.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

LINES = 5000
"""Most lines that are kept of one engine."""
CHARACTERS = 1 << 20
"""Most characters that they have together."""
PAGE = 32 << 10
"""Characters that a reader is given at once, and a line more."""

Kind = Literal["line", "start", "end"]
"""What a line is: something that the engine printed, or that its process was started, or has ended."""

_names = itertools.count(time.time_ns())


class Position(NamedTuple):
    """Where a reader is: at which line of which ring. Ring 0: it has read nothing, and wants that many last lines."""

    ring: int
    number: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line."""

    time: float
    """Seconds since the epoch."""
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """Lines that a reader has not had yet."""

    ring: int
    """Which ring they are from."""
    next: int
    """The number of the first line behind them."""
    lost: int
    """How many lines before them were lost."""
    lines: tuple[Line, ...]

    def plain(self) -> dict[str, Any]:
        """Return the page in plain JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Page:
        """Return the page that `plain` has returned."""
        return cls(**{**plain, "lines": tuple(Line(**line) for line in plain["lines"])})


class Ring:
    """The lines, numbered from 0 on."""

    def __init__(self, lines: int = LINES, characters: int = CHARACTERS) -> None:
        """Keep at most so many lines and characters."""
        self._name = next(_names)
        """Differs from that of every other ring, so that a reader finds out that it reads another one."""
        self._most = lines
        self._room = characters
        self._kept: collections.deque[Line] = collections.deque()
        self._next = 0
        self._waiting: list[asyncio.Future[None]] = []

    def add(self, kind: Kind, text: str) -> None:
        """Keep a line, and tell those who wait for one."""
        self._kept.append(Line(time.time(), kind, text))
        self._next += 1
        self._room -= len(text)
        while len(self._kept) > self._most or (self._room < 0 and len(self._kept) > 1):
            self._room += len(self._kept.popleft().text)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def read(self, at: Position, patience: float) -> Page:
        """Return lines from a position on. Where there is none, wait for one, at most so many seconds."""
        number = at.number if at.ring == self._name else 0
        if at.ring == 0:
            number = self._next - min(at.number, len(self._kept))
        if number >= self._next and patience > 0:
            await self._wait(patience)
        return self._page(number)

    def _page(self, number: int) -> Page:
        first = self._next - len(self._kept)
        begin = min(max(number, first), self._next)
        lines: list[Line] = []
        left = PAGE
        for line in itertools.islice(self._kept, begin - first, None):
            lines.append(line)
            left -= len(line.text)
            if left < 0:
                break
        return Page(self._name, begin + len(lines), max(0, first - number), tuple(lines))

    async def _wait(self, patience: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=patience)
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

"""The record of what a fake engine saw and did: one exchange per request, totals, and a way to wait for either.

Rules:
- Connections write it as things happen. `until` checks its condition at every change; nothing polls.
- It is bounded: the newest `KEPT` exchanges are kept, the totals count all.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

KEPT = 10_000
BODY_SHOWN = 1 << 16

Phase = Literal["queued", "waiting", "headers", "streaming", "done"]
End = Literal["finished", "aborted", "cut"]


@dataclass(slots=True)
class Exchange:
    """One request and how it ended. Times are `time.monotonic()`."""

    number: int
    connection: int
    """Which connection it came on, counted from 1."""
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case; the last of several lines with one name."""
    body: bytes
    arrived: float
    phase: Phase = "waiting"
    """How far the answer got: in line for a slot, nothing sent, head sent, events sent, all sent."""
    rule: int | None = None
    """Which rule of the script decided, counted from 0."""
    events: int = 0
    tokens: int = 0
    bytes_sent: int = 0
    outcome: Literal["running"] | End = "running"
    """`aborted`: the client left first. `cut`: the script, or the engine going down, ended it."""
    closed: float | None = None
    """When the connection was lost, if it was lost before the answer was complete."""
    finished: float | None = None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError."""
        return json.loads(self.body)

    def as_dict(self) -> dict[str, Any]:
        """Return the exchange as `/_fake/stats` shows it."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in ("body", "headers")}
        return shown | {"headers": dict(self.headers), "body": self.text[:BODY_SHOWN]}


@dataclass(slots=True)
class Totals:
    """Counted since the start or the last `clear`; `open` is a level."""

    open: int = 0
    accepted: int = 0
    started: int = 0
    finished: int = 0
    aborted: int = 0
    cut: int = 0
    refused: int = 0
    """Turned away because loading or because the queue was full; they count as finished too."""
    tokens: int = 0
    running: int = 0
    queued: int = 0


@dataclass(slots=True)
class Journal:
    """The record of one fake engine."""

    totals: Totals = field(default_factory=Totals)
    exchanges: deque[Exchange] = field(default_factory=lambda: deque(maxlen=KEPT))
    watched: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)

    def begin(
        self, connection: int, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Exchange:
        """Record that a request was read."""
        self.totals.started += 1
        exchange = Exchange(
            self.totals.started, connection, method, path, headers, body, arrived=time.monotonic()
        )
        self.exchanges.append(exchange)
        self.changed()
        return exchange

    def end(self, exchange: Exchange, outcome: End) -> None:
        """Record that an answer was sent, or never will be."""
        exchange.outcome = outcome
        if outcome == "finished":
            exchange.phase = "done"
            exchange.finished = time.monotonic()
        else:
            exchange.closed = time.monotonic()
        setattr(self.totals, outcome, getattr(self.totals, outcome) + 1)
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for what has just become true."""
        if not self.watched:
            return
        for waiting in self.watched[:]:
            seen, future = waiting
            if future.done() or _true(seen):
                self.watched.remove(waiting)
                if not future.done():
                    future.set_result(None)

    async def until(self, seen: Callable[[], bool], timeout: float) -> None:
        """Return as soon as `seen()` is true. Raises TimeoutError after `timeout` seconds.

        `seen` may look at exchanges that do not exist yet: an IndexError counts as false.
        """
        if _true(seen):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watched.append((seen, future))
        try:
            async with asyncio.timeout(timeout):
                await future
        finally:
            self.watched = [waiting for waiting in self.watched if waiting[1] is not future]

    def clear(self) -> None:
        """Forget the exchanges and counts; keep the levels (open, running, queued)."""
        kept = Totals(open=self.totals.open, running=self.totals.running, queued=self.totals.queued)
        self.totals = kept
        self.exchanges.clear()

    def as_dict(self) -> dict[str, Any]:
        totals = {name: getattr(self.totals, name) for name in Totals.__slots__}
        return totals | {"requests": [exchange.as_dict() for exchange in self.exchanges]}


def _true(seen: Callable[[], bool]) -> bool:
    try:
        return seen()
    except IndexError:
        return False

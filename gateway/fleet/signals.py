"""What engines tell of their load: asked every few seconds, judged, and kept with its age.

Rules:
- No request ever waits for it, and a backend that does not answer costs nobody but its own task anything.
- A value is never quietly wrong. It is ok, or it is shown as stale, suspect or missing, with the reason.
- `Book` is pure, and the time is an argument. What changes for the worse is one log line, and one when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from backends.base import Call, Failure, Health, Reading, Signal, Signals, Status
from gateway.fleet.pool import Backend, Pool
from gateway.wire.ask import ask
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

INTERVAL = 5.0
"""Seconds between questions to one engine."""
FRESH = 3 * INTERVAL
"""Seconds after which a value is stale."""
TIMEOUT = 2.0
"""Seconds an answer may take."""
PAGE = 16 << 20
"""Bytes of an answer: metrics pages of busy engines are long."""
VITAL = frozenset({Signal.RUNNING, Signal.WAITING, Signal.KV_USE})
"""Signals every engine of a kind tells. That another is missing may only mean that a feature is off."""

Answer = tuple[int, bytes] | Failure

Spells = frozenset[tuple[int, int]]
"""Busy times of the gateway at a backend: process, and the number of that process' busy time. One that is in two
looks lasted from the first to the second."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A signal with all that is known of it now. `value` is None where it was not told or is no number, `age` is in
    seconds since the engine told it."""

    status: Status
    value: float | None
    names: tuple[str, ...]
    source: str
    age: float | None


class Book:
    """The signals of one backend."""

    def __init__(self) -> None:
        self._told: dict[Signal, tuple[Reading, float]] = {}
        """The last word on each signal and its time."""
        self._lost: str | None = None
        """Why the last answer could not be had."""
        self._known: set[Signal] = set()
        """Signals that were ok at some time."""
        self._zeros = 0
        self._through: Spells = frozenset()
        """Busy times that lasted all through the zeros."""
        self._doubted = False
        self._reported: set[Signal] = set()

    def take(self, told: Signals, lost: str | None, spells: Spells, now: float) -> None:
        """An engine has told its signals. `lost` says why an answer could not be had, None if all were. `spells` are
        the gateway's busy times there that lasted from before the question to after the answer."""
        self._lost = lost
        for signal, reading in told.items():
            if reading.status is Status.OK:
                self._known.add(signal)
            if reading.status is Status.MISSING and lost is not None:
                # Nobody said that it is gone: what was told before only gets older.
                before = self._told.get(signal)
                if before is not None and before[0].status is not Status.MISSING:
                    continue
                reading = Reading(Status.MISSING, source=lost)  # noqa: PLW2901
            self._told[signal] = reading, now
        self._weigh(told, spells)

    def shown(self, now: float) -> dict[Signal, Shown]:
        """Every signal as it stands at `now`."""
        return {signal: self._show(signal, *told, now) for signal, told in self._told.items()}

    def news(self, now: float) -> Iterator[tuple[int, str]]:
        """Level and text of what is to be logged: signals that cannot be relied on any more, or can be again. Each
        change is told once."""
        shown = self.shown(now)
        bad = {signal for signal, facts in shown.items() if facts.status is not Status.OK}
        worse: dict[str, list[Signal]] = {}
        for signal in shown:
            if signal in bad - self._reported:
                facts = shown[signal]
                why = self._lost if facts.status is Status.STALE and self._lost else facts.source
                worse.setdefault(f"{facts.status}: {why}", []).append(signal)
        for words, signals in worse.items():
            serious = not self._known.union(VITAL).isdisjoint(signals)
            yield (logging.WARNING if serious else logging.INFO), f"{_names(signals)} {words}"
        better = [signal for signal in shown if signal in self._reported - bad]
        if better:
            yield logging.INFO, f"{_names(better)} ok"
        self._reported = bad

    def _show(self, signal: Signal, reading: Reading, at: float, now: float) -> Shown:
        status, value, source = reading.status, reading.value, reading.source
        if value is not None and not math.isfinite(value):
            value = None
        age = None if status is Status.MISSING else max(0.0, now - at)
        if status is Status.OK and age is not None and age > FRESH:
            status = Status.STALE
        elif status is Status.OK and signal is Signal.RUNNING and self._doubted:
            status, source = Status.SUSPECT, f"{source} reads 0 while the gateway's own requests run"
        return Shown(status, value, reading.names, source, age)

    def _weigh(self, told: Signals, spells: Spells) -> None:
        """Whether "nothing runs" can be true. Once it was not, only another number is believed."""
        running, waiting = told.get(Signal.RUNNING), told.get(Signal.WAITING)
        if running is None or running.status is not Status.OK:
            return
        if running.value:
            self._zeros, self._doubted = 0, False
            return
        if waiting is not None and waiting.status is Status.OK and waiting.value:
            self._zeros = 0
            return
        through = self._through & spells if self._zeros else spells
        self._zeros = self._zeros + 1 if through else int(bool(spells))
        self._through = through or spells
        self._doubted = self._doubted or self._zeros >= 2


def _names(signals: list[Signal]) -> str:
    return f"signal {signals[0]} is" if len(signals) == 1 else f"signals {', '.join(signals)} are"


class Poll:
    """Asks one backend."""

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        metrics_at: Upstream | None,
        spells: Callable[[str], Awaitable[Spells]],
        rng: Random,
        clock: Callable[[], float],
    ) -> None:
        """`metrics_at` is where to ask if not where the engine answers; `spells` tells the busy times there are now at
        the backend of that name."""
        self.book = Book()
        self._backend = backend
        self._pool = pool
        self._metrics_at = metrics_at
        self._spells = spells
        self._rng = rng
        self._clock = clock

    async def run(self) -> None:
        """Ask until cancelled, while the backend is ready or loading."""
        while self._backend.engine.signal_calls():
            if self._backend.upstream is None or self._backend.health not in (Health.READY, Health.LOADING):
                await self._pool.change()
                continue
            await self.ask()
            await asyncio.sleep(INTERVAL * self._rng.uniform(0.8, 1.2))

    async def ask(self) -> None:
        """Ask once, and take down what it says."""
        backend, upstream = self._backend, self._backend.upstream
        calls = backend.engine.signal_calls()
        if upstream is None or not calls:
            return
        before = await self._spells(backend.name)
        where = self._metrics_at or upstream
        answers = await asyncio.gather(*(ask(where, call, TIMEOUT, PAGE) for call in calls))
        spells = before & await self._spells(backend.name)
        if upstream is not backend.upstream:
            return
        told, lost = self._read(calls, answers)
        now = self._clock()
        self.book.take(told, lost, spells, now)
        if backend.health is Health.READY:
            for level, text in self.book.news(now):
                log.log(level, "backend '%s': %s", backend.name, text)

    def _read(self, calls: Sequence[Call], answers: Sequence[Answer]) -> tuple[Signals, str | None]:
        """What the answers tell, and why some of them tell nothing."""
        bodies: list[bytes | None] = []
        lost = []
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Failure):
                lost.append(f"{call.method} {call.path}: {answer.message}")
            elif answer[0] != 200:
                lost.append(f"{call.method} {call.path} answered {answer[0]}")
            bodies.append(None if isinstance(answer, Failure) or answer[0] != 200 else answer[1])
        engine = self._backend.engine
        try:
            return engine.signals_of(bodies), "; ".join(lost) or None
        except Exception:
            # A page can hold anything, and an adapter may come from elsewhere: its slip must not end the watch.
            log.debug("backend '%s': cannot read its signals", self._backend.name, exc_info=True)
            return engine.signals_of([None] * len(bodies)), "its answer cannot be read"

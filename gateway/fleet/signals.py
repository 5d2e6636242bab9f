"""Load signals of engines: asked for every few seconds, judged, and kept with their age; and what they measure besides.

Rules:
- No request ever waits for them, and a backend that does not answer delays nothing but its own task.
- A value is never silently wrong: it is ok, or it is shown as stale, suspect or missing, with the reason.
- What decisions read of it (`gateway.fleet.load`) is set whenever an engine was asked, and holds what is ok only.
- `Book` is pure, and time is an argument. A signal that turns bad is one log line, and one when it is good again.
- One answer of an engine's metrics page tells both. It is sifted as it arrives, and what is kept of it is read once; in
  a thread where that is much, so that the loop turns meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from backends.base import Call, Engine, Failure, Health, MetricsPage, Reading, Signal, Signals, Status
from backends.facts.metrics import measured
from backends.framing.prometheus import Sieve
from backends.metrics import Measured
from gateway.fleet.backend import Backend, BusyPeriods
from gateway.fleet.load import FRESH, INTERVAL
from gateway.fleet.pool import Pool
from gateway.fleet.residence import rests
from gateway.wire.ask import ask
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

_ASKED = frozenset({Health.READY, Health.LOADING, Health.ASLEEP})
"""The states in which an engine is asked."""
TIMEOUT = 2.0
"""Seconds an answer may take."""
PAGE = 16 << 20
"""Bytes of an answer: metrics pages of busy engines are long."""
MUCH = 64 << 10
"""Bytes of answers, as they were sifted, that are read in a thread: they take more than some milliseconds."""
VITAL = frozenset({Signal.RUNNING, Signal.WAITING, Signal.KV_USE})
"""Signals that matter wherever they are missing. Another one that is missing may only mean that a feature is off."""

Answer = tuple[int, bytes] | Failure


@dataclass(frozen=True, slots=True)
class Shown:
    """A signal with all that is known of it now."""

    status: Status
    value: float | None
    """None where the engine did not tell it, or told something that is no number."""
    names: tuple[str, ...]
    """What the signal counts, where that has names."""
    source: str
    """The engine's own name for it, or why it is missing or suspect."""
    age: float | None
    """Seconds since the engine told it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What may be believed of an engine's load, as `Load.take` has it: the process that asks tells it to the others."""

    name: str
    """The name of the backend."""
    ages: Mapping[str, tuple[float, float]]
    models: tuple[str, ...]

    def aged(self, seconds: float) -> Report:
        """Return the same report so much later."""
        ages = {signal: (value, age + seconds) for signal, (value, age) in self.ages.items()}
        return Report(self.name, ages, self.models)


class Book:
    """The signals of one backend."""

    def __init__(self) -> None:
        """Start without any signal."""
        self._told: dict[Signal, tuple[Reading, float]] = {}
        """The last reading of each signal and its time."""
        self._lost: str | None = None
        """Why the last answer could not be had; None if it was."""
        self._known: set[Signal] = set()
        """Signals that were ok at some time."""
        self._zeros = 0
        """How often in a row the engine said that nothing runs while requests of the gateway did."""
        self._through: BusyPeriods = frozenset()
        """Busy periods that lasted all through these answers."""
        self._doubted = False
        self._reported: set[Signal] = set()

    def take(self, told: Signals, lost: str | None, busy: BusyPeriods, now: float) -> None:
        """Note what an engine has told.

        `lost` says why an answer could not be had, None if all were. `busy` are the gateway's busy periods there that
        lasted from before the question to after the answer.
        """
        self._lost = lost
        for signal, reading in told.items():
            if reading.status is Status.OK:
                self._known.add(signal)
            if reading.status is Status.MISSING and lost is not None:
                # The engine did not say that it is gone: the reading before only gets older.
                before = self._told.get(signal)
                if before is not None and before[0].status is not Status.MISSING:
                    continue
                reading = Reading(Status.MISSING, source=lost)  # noqa: PLW2901
            self._told[signal] = reading, now
        self._weigh(told, busy)

    def shown(self, now: float) -> dict[Signal, Shown]:
        """Return every signal as it stands at `now`."""
        return {signal: self._show(signal, *told, now) for signal, told in self._told.items()}

    def believed(self, now: float) -> dict[Signal, float]:
        """Return the values that may be believed at `now`."""
        shown = self.shown(now).items()
        return {
            signal: facts.value
            for signal, facts in shown
            if facts.status is Status.OK and facts.value is not None
        }

    def report(self, name: str, now: float) -> Report:
        """Return what may be believed at `now`, for the backend of this name."""
        shown = self.shown(now)
        ages = {
            str(signal): (facts.value, facts.age)
            for signal, facts in shown.items()
            if facts.status is Status.OK and facts.value is not None and facts.age is not None
        }
        return Report(name, ages, shown[Signal.MODELS].names if Signal.MODELS in ages else ())

    def news(self, now: float) -> Iterator[tuple[int, str]]:
        """Yield level and text of what is to be logged: signals that have turned bad, or good again.

        Each change is told once.
        """
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

    def _weigh(self, told: Signals, busy: BusyPeriods) -> None:
        """Decide whether "nothing runs" can be true. Once it was not, only another number is believed."""
        running, waiting = told.get(Signal.RUNNING), told.get(Signal.WAITING)
        if running is None or running.status is not Status.OK:
            return
        if running.value:
            self._zeros, self._doubted = 0, False
            return
        if waiting is not None and waiting.status is Status.OK and waiting.value:
            self._zeros = 0
            return
        through = self._through & busy if self._zeros else busy
        self._zeros = self._zeros + 1 if through else int(bool(busy))
        self._through = through or busy
        self._doubted = self._doubted or self._zeros >= 2


def _names(signals: list[Signal]) -> str:
    return f"signal {signals[0]} is" if len(signals) == 1 else f"signals {', '.join(signals)} are"


OnReport = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class _Read:
    """What the answers of an engine tell; `measured` is None where its metrics page could not be had."""

    told: Signals
    lost: str | None
    measured: Measured | None


class Poll:
    """Asks one backend for its signals."""

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        metrics_at: Upstream | None,
        busy: Callable[[Backend], Awaitable[BusyPeriods]],
        rng: Random,
        clock: Callable[[], float],
        on_report: OnReport | None = None,
    ) -> None:
        """Ask nothing yet.

        `metrics_at` is where to ask if not where the engine answers. `busy` tells the busy periods there are now at a
        backend. `clock` tells the age of signals. `on_report` is called with what may be believed after each question.
        """
        self.book = Book()
        self._measured: tuple[Measured, float] | None = None
        """What the engine told last of what it measures, and when."""
        self._backend = backend
        self._pool = pool
        self._metrics_at = metrics_at
        self._busy = busy
        self._rng = rng
        self._clock = clock
        self._on_report = on_report

    def move(self, metrics_at: Upstream | None) -> None:
        """Ask there from now on; None: where the engine answers."""
        self._metrics_at = metrics_at

    def forget(self) -> None:
        """Forget all that was told: another engine answers from now on."""
        self.book = Book()
        self._measured = None

    def measured(self, now: float) -> Measured | None:
        """Return what the engine measures, as it told at most `FRESH` seconds before `now`."""
        if self._measured is None or now - self._measured[1] > FRESH:
            return None
        return self._measured[0]

    async def run(self) -> None:
        """Ask until cancelled, while the backend is ready or loading."""
        while True:
            backend = self._backend
            asked = backend.upstream is not None and backend.health in _ASKED
            if not asked or not backend.engine.signal_calls():
                if rests(backend.residence):
                    self.forget()
                await self._pool.change()
                continue
            health = backend.health
            await self.ask()
            # An engine that has just become ready tells more than it did while it was loading.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL * self._rng.uniform(0.8, 1.2)):
                    while backend.health is health:
                        await self._pool.change()

    async def ask(self) -> None:
        """Ask once, and note what the engine says."""
        backend, upstream, book = self._backend, self._backend.upstream, self.book
        calls = backend.engine.signal_calls()
        if upstream is None or not calls:
            return
        before, in_flight = await self._busy(backend), backend.in_flight
        where = self._metrics_at or upstream
        page = _page_of(backend.engine)
        sieves = [Sieve(page.names) if page and _is_at(call, page) else None for call in calls]
        asked = zip(calls, sieves, strict=True)
        answers = await asyncio.gather(*(ask(where, call, TIMEOUT, PAGE, sieve) for call, sieve in asked))
        now, busy = self._clock(), before & await self._busy(backend)
        much = sum(len(answer[1]) for answer in answers if not isinstance(answer, Failure)) > MUCH
        reading = (backend.engine, page, calls, answers)
        found = await asyncio.to_thread(_read, *reading) if much else _read(*reading)
        if upstream is not backend.upstream or book is not self.book:
            return
        book.take(found.told, found.lost, busy, now)
        if found.measured is not None:
            self._measured = found.measured, now
        report = book.report(backend.name, now)
        # A request that came or went meanwhile may be among those that the engine has counted.
        ours = max(in_flight, backend.in_flight)
        backend.load.take(report.ages, report.models, ours, asyncio.get_running_loop().time())
        if self._on_report is not None:
            self._on_report(report)
        if backend.health is Health.READY:
            for level, text in book.news(now):
                log.log(level, "backend '%s': %s", backend.name, text)


def _page_of(engine: Engine) -> MetricsPage | None:
    """Return the engine's own metrics page. An adapter may come from elsewhere: its bug must not end the task."""
    try:
        return engine.metrics()
    except Exception:
        log.debug("engine '%s': cannot tell its metrics page", engine.name, exc_info=True)
        return None


def _is_at(call: Call, page: MetricsPage) -> bool:
    return call.method == "GET" and call.path == page.path


def _read(
    engine: Engine, page: MetricsPage | None, calls: Sequence[Call], answers: Sequence[Answer]
) -> _Read:
    """Return what the answers tell, and why some of them tell nothing."""
    bodies: list[bytes | None] = []
    lost = []
    found: Measured | None = None
    for call, answer in zip(calls, answers, strict=True):
        if isinstance(answer, Failure):
            lost.append(f"{call.method} {call.path}: {answer.message}")
        elif answer[0] != 200:
            lost.append(f"{call.method} {call.path} answered {answer[0]}")
        bodies.append(None if isinstance(answer, Failure) or answer[0] != 200 else answer[1])
        if page is not None and bodies[-1] is not None and _is_at(call, page):
            found = measured(bodies[-1], page.table)
    # A page can hold anything, and an adapter may come from elsewhere: its bug must not end the task.
    try:
        return _Read(engine.signals_of(bodies), "; ".join(lost) or None, found)
    except Exception:
        log.debug("engine '%s': cannot read its signals", engine.name, exc_info=True)
    told: Signals = {}
    with contextlib.suppress(Exception):
        told = engine.signals_of([None] * len(bodies))
    return _Read(told, "its answer cannot be read", found)

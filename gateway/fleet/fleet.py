"""All backends of the gateway: made to fit a config, and worked for as long as `run` runs.

Rules:
- `apply` is the only way backends come, change and go, at the first start as at every reload. It changes everything or,
  where it raises, nothing; it waits for nothing. What takes time happens in tasks.
- Whoever builds a fleet says whether it launches engines itself. Where another process does (the gateway with several
  workers), that one tells the locations of the engines, and `relocate` takes them over. Only the one that launches asks
  engines for their signals.
- Nothing runs before `run` and nothing after it, however it ends.
- An operator's orders belong to names: a backend that comes later, or in the place of another, finds its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any

from backends.base import Engine, Status
from gateway.config.schema import Config
from gateway.fleet.backend import Backend, BusyPeriods
from gateway.fleet.breaker import Settings
from gateway.fleet.discovery import Discovery
from gateway.fleet.gauges import show
from gateway.fleet.keeper import Here, Keeper, Use, Uses
from gateway.fleet.left import WARDENS, Adopting
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.member import Member, Shared, engine_of
from gateway.fleet.orders import Kind, Order, Standing
from gateway.fleet.pool import Pool
from gateway.fleet.residence import Wishes
from gateway.fleet.ring import Page, Position
from gateway.fleet.signals import OnReport, Poll, Report
from gateway.fleet.view import BackendState, BackendView
from gateway.telemetry.metrics import Metrics
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")


def _nobody(location: Location) -> None:
    """Tell nobody where an engine went."""


def _adopting(config: Config) -> Adopting | None:
    """Return where engines are left for the next gateway, if they are."""
    data, seconds = config.server.data, config.server.engines.adopt
    return None if data is None or seconds is None else Adopting(Path(data.folder) / WARDENS, seconds)


async def _busy_here(backend: Backend) -> BusyPeriods:
    return backend.busy_periods()


class Fleet:
    """The backends of the current config, and those that are about to leave."""

    def __init__(
        self,
        metrics: Metrics,
        rng: Random,
        on_models: Callable[[], None],
        launches: bool = True,
        on_location: OnLocation = _nobody,
        busy: Callable[[Backend], Awaitable[BusyPeriods]] = _busy_here,
        clock: Callable[[], float] = time.monotonic,
        on_report: OnReport | None = None,
        wishes: Wishes | None = None,
        used: Callable[[], Awaitable[Uses]] | None = None,
    ) -> None:
        """Start without backends.

        `on_models` is called when a backend has told other models than before; `on_location` whenever a launched
        engine has come or gone. `rng` breaks ties and spreads probes. `busy` tells the busy periods at a backend of
        the processes that serve, if that is not this one. `clock` tells the age of signals. `on_report` is called with
        what each engine has told of its load. `wishes` is told what requests of this process want of engines that
        another process launches. `used` tells how all processes use each backend, if others do.
        """
        self.pool = Pool(metrics.adapters)
        metrics.before_scrape(self.pool.adapters.show)
        self._metrics = metrics
        self.keeper: Keeper | None = None
        """Decides which of the launched engines run; None where another process launches them."""
        if launches:
            self.keeper = Keeper(metrics, used or self._uses)
            metrics.before_scrape(self.keeper.show)
            self.pool.on_change = self.keeper.wake
        self._shared = Shared(
            self.pool,
            metrics,
            rng,
            clock,
            on_models,
            on_location,
            on_report,
            busy,
            launches,
            wishes or Here(self.keeper),
        )
        self._members: dict[str, Member] = {}
        self._leaving: set[Member] = set()
        self._locations: dict[str, Location] = {}
        """The last word of another process on each engine; it may come before the config that names the backend."""
        self._standing = Standing(self._order_ended)
        self._expiring: asyncio.TimerHandle | None = None
        self._group: asyncio.TaskGroup | None = None
        self.discovery = Discovery(self._ask_models, self._task)
        metrics.before_scrape(self._count_states)
        metrics.before_scrape(self._count_signals)
        metrics.before_scrape(self._show_engines)

    def apply(self, config: Config) -> None:
        """Start, change and stop backends until they are those of the config.

        Backends whose settings are the same are not touched. Those that are gone take no new requests from now on.

        Raises:
            OptionsError: An engine cannot use its options. Nothing has changed then.
        """
        engines = self.check(config)
        for name in self._members.keys() - config.backends.keys():
            log.info("backend '%s' has left the config", name)
            self._retire(name, None)
        for name, engine in engines.items():
            settings, member, predecessor = config.backends[name], self._members.get(name), None
            if member is not None and not member.fits(settings):
                member, predecessor = None, self._retire(name, config.server.drain)
            if member is not None:
                member.change(settings, engine, config.server.drain)
                continue
            member = self._members[name] = Member(name, settings, engine, self._shared, predecessor)
            member.backend.orders = self._standing.of(name)
            member.backend.obey()
            if name in self._locations:
                member.relocate(self._locations[name])
            self._start(member)
        wanted = config.defaults.breaker
        for member in self._members.values():
            member.backend.breaker.settings = Settings(
                wanted.failures, pause=wanted.pause, longest=wanted.longest
            )
        targeted = {target for model in config.models.values() for target in model.targets}
        data = None if config.server.data is None else Path(config.server.data.folder)
        for name, member in self._members.items():
            member.backend.listed.targeted = name in targeted
            if member.supervisor is not None:
                member.supervisor.process.arrivals.data = data
                member.supervisor.process.arrivals.adopting = _adopting(config)
        self._members = {name: self._members[name] for name in config.backends}
        self.pool.backends = {name: member.backend for name, member in self._members.items()}
        if self.keeper is not None:
            self.keeper.apply(
                config,
                {
                    name: member.supervisor
                    for name, member in self._members.items()
                    if member.supervisor is not None
                },
            )
        self.pool.announce()

    def check(self, config: Config) -> dict[str, Engine]:
        """Return the adapters of the backends that are new in a config, or have other settings there.

        Raises:
            OptionsError: An engine cannot use its options.
        """
        return {
            name: engine_of(settings)
            for name, settings in config.backends.items()
            if name not in self._members or self._members[name].settings != settings
        }

    async def run(self) -> None:
        """Launch and watch until cancelled; then end what was launched and close every connection."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for member in self._members.values():
                    self._start(member)
                if self.keeper is not None:
                    group.create_task(self.keeper.run(), name="keeper")
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self._group = None
                    for member in self._members.values():
                        if member.supervisor is not None:
                            process = member.supervisor.process
                            process.outlived = process.arrivals.adopting is not None
        finally:
            if self._expiring is not None:
                self._expiring.cancel()
            self.pool.adapters.close()
            for member in (*self._members.values(), *self._leaving):
                member.close()

    def relocate(self, location: Location) -> None:
        """Note that another process has launched an engine, or lost it."""
        self._locations[location.name] = location
        member = self._members.get(location.name)
        if member is not None:
            member.relocate(location)
            self.pool.announce()

    def take_report(self, report: Report) -> None:
        """Believe what another process was told by an engine of its load."""
        backend = self.pool.backends.get(report.name)
        if backend is not None:
            now = asyncio.get_running_loop().time()
            backend.load.take(report.ages, report.models, backend.in_flight, now)

    def obey(self, order: Order) -> None:
        """Do what an operator has ordered for a backend, from now on; the backend may come later."""
        backend = self.pool.backends.get(order.backend)
        if order.kind is Kind.RESET_BREAKER:
            if backend is not None:
                backend.reset_breaker()
        elif order.kind in (Kind.START, Kind.STOP):
            if self.keeper is not None:
                self.keeper.order(order.backend, order.kind is Kind.START)
        else:
            self._standing.of(order.backend).take(order, asyncio.get_running_loop().time())
            self._apply_orders()
        self.pool.announce()

    def standing(self) -> list[Order]:
        """Return the orders that hold now."""
        return self._standing.told(asyncio.get_running_loop().time())

    def wake(self, name: str) -> None:
        """Have a backend probed, and asked for its models, at once; nothing where there is none of this name."""
        if name in self._members:
            self._members[name].backend.woken.set()

    async def refresh(self, name: str) -> None:
        """Probe a backend, and ask for its models, before this returns."""
        member = self._members.get(name)
        if member is not None and member.backend.upstream is not None:
            await member.watch.probe(member.backend.upstream)

    def busy_periods(self, name: str) -> BusyPeriods:
        """Return this process's current busy period at a backend, or at one of this name that is about to leave."""
        return frozenset[tuple[int, int]]().union(
            *(member.backend.busy_periods() for member in self._all() if member.backend.name == name)
        )

    def uses(self) -> dict[str, Use]:
        """Return how this process uses each launched backend."""
        return {
            name: Use(backend.busy_period, backend.in_flight)
            for name, backend in self.pool.backends.items()
            if backend.residence is not None
        }

    async def _uses(self) -> Uses:
        return self.uses()

    def poll(self, name: str) -> Poll:
        """Return what asks a backend for its signals. Only where this process does."""
        poll = self._members[name].poll
        assert poll is not None
        return poll

    def launched(self) -> dict[str, int | None]:
        """Return the engines that this process launches: backends' names, and process ids while they run."""
        return {
            name: member.supervisor.process.pid
            for name, member in self._members.items()
            if member.supervisor is not None
        }

    async def printed(self, name: str, at: Position, patience: float) -> Page | None:
        """Return what the launched engine of a backend has printed since a position; see `gateway.fleet.ring`.

        It may be one that is about to leave. None where this process launches no such engine.
        """
        for member in self._all():
            if member.backend.name == name and member.supervisor is not None:
                return await member.supervisor.process.printed.read(at, patience)
        return None

    def metrics_at(self, name: str) -> Upstream | None:
        """Return where a backend's engine publishes its metrics; None where there is none now."""
        member = self._members.get(name)
        return None if member is None else member.metrics_at or member.backend.upstream

    def views(self, now: float) -> list[BackendView]:
        """Return every backend as it is at `now`, the event loop's time."""
        return [member.view(now) for member in self._members.values()]

    def _apply_orders(self) -> None:
        """Have all backends obey the orders as they are, and look again when the next one ends by itself."""
        for backend in self.pool.backends.values():
            backend.obey()
        if self._expiring is not None:
            self._expiring.cancel()
        until = self._standing.next_end()
        loop = asyncio.get_running_loop()
        self._expiring = None if until is None else loop.call_at(until, self._expire_orders)

    def _expire_orders(self) -> None:
        self._standing.expire(asyncio.get_running_loop().time())
        self._apply_orders()
        self.pool.announce()

    def _order_ended(self, name: str, kind: Kind) -> None:
        if self._shared.launches:
            # Of several processes one is enough to say so.
            what = "it takes requests again" if kind is Kind.DRAIN else "it has its own weight again"
            log.info("backend '%s': %s, as the time that an operator ordered is over", name, what)

    async def _ask_models(self) -> None:
        await asyncio.gather(*(member.watch.ask_models() for member in self._members.values()))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the fleet."""
        if self._group is None:
            return asyncio.get_running_loop().create_task(work)
        return self._group.create_task(work)

    def _all(self) -> Iterator[Member]:
        """Yield the backends of the config, then those that are about to leave."""
        yield from self._members.values()
        yield from self._leaving

    def _start(self, member: Member) -> None:
        """Start the tasks of a backend, if tasks run already."""
        if self._group is not None:
            self._group.create_task(self._run(member), name=f"backend {member.backend.name}")

    async def _run(self, member: Member) -> None:
        """Work for one backend; whatever happens there does not end the others."""
        try:
            await member.run()
        except Exception:
            log.exception("backend '%s' is worked for no longer, which is a bug", member.backend.name)
        finally:
            if member in self._leaving:
                self._forget(member)

    def _retire(self, name: str, patience: float | None) -> Member:
        """Take a backend out of the config; it ends when its requests have, after `patience` seconds in any case."""
        member = self._members.pop(name)
        member.retire(patience)
        self._leaving.add(member)
        if self._group is None:
            member.close()
            self._forget(member)
        return member

    def _forget(self, member: Member) -> None:
        """Drop what is left of a backend that has ended; its metrics too, unless another one has its name now."""
        self._leaving.discard(member)
        name, engine = member.backend.name, member.backend.engine.name
        now = self._members.get(name)
        if now is None:
            self._metrics.forget_backend(name)
        elif now.backend.engine.name != engine:
            for family in (self._metrics.backends.up, self._metrics.backends.restarts):
                family.forget(name, engine)
            for state in BackendState:
                self._metrics.backends.state.forget(name, engine, state)

    def _count_states(self) -> None:
        for backend in self.pool.backends.values():
            show(backend, self._metrics)

    def _count_signals(self) -> None:
        metrics, now = self._metrics, self._shared.clock()
        for name, member in self._members.items():
            shown_now = {} if member.poll is None else member.poll.book.shown(now)
            for signal, shown in shown_now.items():
                told = shown.value if shown.status in (Status.OK, Status.STALE) else None
                if told is None:
                    metrics.backends.signal.forget(name, signal)
                else:
                    metrics.backends.signal.cell(name, signal).value = told
                for status in Status:
                    metrics.backends.signal_status.cell(name, signal, status).value = float(
                        status is shown.status
                    )

    def _show_engines(self) -> None:
        shown, now = self._metrics.engines, self._shared.clock()
        shown.clear()
        for name, member in self._members.items():
            if member.poll is not None:
                engine = member.backend.engine.name
                shown.show(name, engine, member.poll.book.believed(now), member.poll.measured(now))

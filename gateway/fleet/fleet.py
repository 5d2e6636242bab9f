"""All backends of a config: built once, then launched, watched and asked for as long as `run` runs.

Rules:
- Whoever builds a fleet says whether it launches engines itself. Where another process does (the gateway with several
  workers), that one tells the locations of the engines, and `relocate` takes them over. Only the one that launches asks
  engines for their signals.
- Nothing runs before `run` and nothing after it, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from random import Random

from backends import registry
from backends.base import Health, LaunchOptions, Status
from gateway.config.file import BackendConfig, Config
from gateway.fleet.breaker import Breaker, Settings
from gateway.fleet.health import Watch
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.pool import Backend, Pool
from gateway.fleet.signals import Book, Poll, Spells
from gateway.fleet.supervise import Supervisor
from gateway.fleet.view import BackendView, backend_view
from gateway.telemetry.metrics import Metrics
from gateway.wire.upstream import Upstream


def _nobody(location: Location) -> None:
    """Nobody wants to know where an engine went."""


class Fleet:
    """The backends of one config."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        rng: Random,
        on_models: Callable[[], None],
        launches: bool = True,
        on_location: OnLocation = _nobody,
        spells: Callable[[str], Awaitable[Spells]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_models` is called when a backend has told other models than before; `on_location` whenever a launched
        engine has come or gone. `rng` breaks ties and spreads probes. `spells` tells the busy times of the
        processes that serve, if that is not this one. `clock` tells the age of signals."""
        self.pool = Pool()
        self._backends = config.backends
        self._metrics = metrics
        self._rng = rng
        self._watches: dict[str, Watch] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self.polls: dict[str, Poll] = {}
        self._clock = clock
        wanted = config.defaults.breaker
        self._settings = Settings(wanted.failures, pause=wanted.pause, longest=wanted.longest)
        for name, settings in config.backends.items():
            backend = self._add(name, settings, on_models)
            if launches:
                self.polls[name] = self._poll(settings, backend, spells or self._own_spells)
            if settings.url is not None:
                backend.locate(settings.url)
            else:
                backend.note(Health.LOADING, "starting")
                if launches and settings.launch is not None:
                    self._supervisors[name] = self._supervisor(
                        settings, settings.launch, backend, on_location
                    )
        metrics.before_scrape(self._count_connections)
        metrics.before_scrape(self._count_signals)

    async def run(self) -> None:
        """Launch and watch until cancelled; then end what was launched and close every connection."""
        try:
            async with asyncio.TaskGroup() as group:
                for supervisor in self._supervisors.values():
                    group.create_task(supervisor.run())
                for watch in self._watches.values():
                    group.create_task(watch.run())
                for poll in self.polls.values():
                    group.create_task(poll.run())
        finally:
            for backend in self.pool.backends.values():
                backend.locate(None)

    def relocate(self, location: Location) -> None:
        """Another process has launched an engine, or lost it."""
        backend = self.pool.backends[location.name]
        backend.locate(location.url, location.key)
        backend.note(Health.LOADING if location.url else Health.DOWN, location.reason)
        self.wake(location.name)
        self.pool.announce()

    def wake(self, name: str) -> None:
        """Something has changed at a backend: have it probed, and its models asked for, at once."""
        self._watches[name].woken.set()

    async def refresh(self, name: str) -> None:
        """Probe a backend, and ask for its models, before this returns."""
        upstream = self.pool.backends[name].upstream
        if upstream is not None:
            await self._watches[name].probe(upstream)

    def spells(self, name: str) -> Spells:
        """The busy time this process has now at a backend."""
        backend = self.pool.backends[name]
        return frozenset({(os.getpid(), backend.spells)} if backend.in_flight else ())

    def views(self, now: float) -> list[BackendView]:
        """Every backend as it is at `now`, the event loop's time."""
        found = []
        for name, backend in self.pool.backends.items():
            supervisor, poll = self._supervisors.get(name), self.polls.get(name)
            process = None if supervisor is None else supervisor.process
            book = Book() if poll is None else poll.book
            found.append(backend_view(self._backends[name], backend, process, book, now, self._clock()))
        return found

    async def _own_spells(self, name: str) -> Spells:
        return self.spells(name)

    def _poll(
        self, settings: BackendConfig, backend: Backend, spells: Callable[[str], Awaitable[Spells]]
    ) -> Poll:
        metrics_at = None
        if settings.metrics_url is not None:
            metrics_at = Upstream(settings.metrics_url, headers=_headers(settings))
        return Poll(backend, self.pool, metrics_at, spells, self._rng, self._clock)

    def _supervisor(
        self, settings: BackendConfig, launch: LaunchOptions, backend: Backend, on_location: OnLocation
    ) -> Supervisor:
        key = settings.api_key
        # Where the config has a key, the engine is told that one, and others may use it who know it.
        new_key = secrets.token_urlsafe if key is None else key.get_secret_value
        watch = self._watches[backend.name]
        return Supervisor(backend, launch, self.pool, watch, self._metrics, self._rng, on_location, new_key)

    def _add(self, name: str, settings: BackendConfig, on_models: Callable[[], None]) -> Backend:
        engine = registry.create(settings.engine, settings.options, settings.launch)
        models = settings.models
        if models is None and settings.launch is not None:
            models = settings.launch.served_names() or None
        breaker = Breaker(self._rng, self._settings)
        backend = Backend(name, engine, self._metrics, breaker, models, _headers(settings))
        self.pool.backends[name] = backend
        self._watches[name] = Watch(backend, self.pool, on_models, self._rng)
        return backend

    def _count_connections(self) -> None:
        for backend in self.pool.backends.values():
            upstream = backend.upstream
            idle, total = (upstream.idle, upstream.open) if upstream is not None else (0, 0)
            self._metrics.connections.cell(backend.name, "idle").value = idle
            self._metrics.connections.cell(backend.name, "busy").value = total - idle

    def _count_signals(self) -> None:
        metrics, now = self._metrics, self._clock()
        for name, poll in self.polls.items():
            for signal, shown in poll.book.shown(now).items():
                told = shown.value if shown.status in (Status.OK, Status.STALE) else None
                if told is None:
                    metrics.signal.forget(name, signal)
                else:
                    metrics.signal.cell(name, signal).value = told
                for status in Status:
                    metrics.signal_status.cell(name, signal, status).value = float(status is shown.status)


def _headers(settings: BackendConfig) -> dict[str, str]:
    """What goes with every request to a backend."""
    headers = {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}
    if settings.api_key is not None:
        headers["authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    return headers

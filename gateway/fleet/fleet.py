"""All backends of a config: built once, then launched, watched and asked for as long as `run` runs.

Rules:
- Whoever builds a fleet says whether it launches engines itself. Where another process does (the gateway with several
  workers), that one tells the places of the engines, and `place` takes them over. Only the one that launches asks
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
from backends.base import Health, Status
from gateway.config import Backend, Config
from gateway.fleet.breaker import Breaker, Settings
from gateway.fleet.health import Watch
from gateway.fleet.place import OnPlace, Place
from gateway.fleet.pool import Pool, Replica
from gateway.fleet.signals import Book, Poll, Spells
from gateway.fleet.supervise import Supervisor
from gateway.fleet.view import BackendView, backend_view
from gateway.metrics import Metrics
from gateway.wire.upstream import Upstream


def _nobody(place: Place) -> None:
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
        on_place: OnPlace = _nobody,
        spells: Callable[[str], Awaitable[Spells]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_models` is called when a backend has told other models than before; `on_place` whenever a launched engine
        has come or gone. `rng` breaks ties and spreads probes. `spells` tells the busy times of the processes that
        serve, if that is not this one. `clock` tells the age of signals."""
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
        for name, backend in config.backends.items():
            replica = self._add(name, backend, on_models)
            if launches:
                self.polls[name] = self._poll(backend, replica, spells or self._own_spells)
            if backend.url is not None:
                replica.place(backend.url)
            else:
                replica.note(Health.LOADING, "starting")
                if launches:
                    self._supervisors[name] = self._supervisor(backend, replica, on_place)
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
            for replica in self.pool.replicas.values():
                replica.place(None)

    def place(self, place: Place) -> None:
        """Another process has launched an engine, or lost it."""
        replica = self.pool.replicas[place.name]
        replica.place(place.url, place.key)
        replica.note(Health.LOADING if place.url else Health.DOWN, place.reason)
        self.wake(place.name)
        self.pool.announce()

    def wake(self, name: str) -> None:
        """Something has changed at a backend: have it probed, and its models asked for, at once."""
        self._watches[name].woken.set()

    async def refresh(self, name: str) -> None:
        """Probe a backend, and ask for its models, before this returns."""
        upstream = self.pool.replicas[name].upstream
        if upstream is not None:
            await self._watches[name].probe(upstream)

    def spells(self, name: str) -> Spells:
        """The busy time this process has now at a backend."""
        replica = self.pool.replicas[name]
        return frozenset({(os.getpid(), replica.spells)} if replica.in_flight else ())

    def views(self, now: float) -> list[BackendView]:
        """Every backend as it is at `now`, the event loop's time."""
        found = []
        for name, replica in self.pool.replicas.items():
            supervisor, poll = self._supervisors.get(name), self.polls.get(name)
            process = None if supervisor is None else supervisor.process
            book = Book() if poll is None else poll.book
            found.append(backend_view(self._backends[name], replica, process, book, now, self._clock()))
        return found

    async def _own_spells(self, name: str) -> Spells:
        return self.spells(name)

    def _poll(self, backend: Backend, replica: Replica, spells: Callable[[str], Awaitable[Spells]]) -> Poll:
        metrics_at = None
        if backend.metrics_url is not None:
            metrics_at = Upstream(backend.metrics_url, headers=_headers(backend))
        return Poll(replica, self.pool, metrics_at, spells, self._rng, self._clock)

    def _supervisor(self, backend: Backend, replica: Replica, on_place: OnPlace) -> Supervisor:
        key = backend.api_key
        # Where the config has a key, the engine is told that one, and others may use it who know it.
        new_key = secrets.token_urlsafe if key is None else key.get_secret_value
        watch = self._watches[replica.name]
        return Supervisor(
            replica, backend.launch, self.pool, watch, self._metrics, self._rng, on_place, new_key
        )

    def _add(self, name: str, backend: Backend, on_models: Callable[[], None]) -> Replica:
        engine = registry.engine(backend.engine)(backend.options)
        models = backend.models
        if backend.launch is not None:
            engine = engine.launched(backend.launch)
            models = (engine.served_names(backend.launch) or None) if models is None else models
        breaker = Breaker(self._rng, self._settings)
        replica = Replica(name, engine, self._metrics, breaker, models, _headers(backend))
        self.pool.replicas[name] = replica
        self._watches[name] = Watch(replica, self.pool, on_models, self._rng)
        return replica

    def _count_connections(self) -> None:
        for replica in self.pool.replicas.values():
            upstream = replica.upstream
            idle, total = (upstream.idle, upstream.open) if upstream is not None else (0, 0)
            self._metrics.connections.cell(replica.name, "idle").value = idle
            self._metrics.connections.cell(replica.name, "busy").value = total - idle

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


def _headers(backend: Backend) -> dict[str, str]:
    """What goes with every request to a backend."""
    headers = {name.lower(): value.get_secret_value() for name, value in backend.headers.items()}
    if backend.api_key is not None:
        headers["authorization"] = f"Bearer {backend.api_key.get_secret_value()}"
    return headers

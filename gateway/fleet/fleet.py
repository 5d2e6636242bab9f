"""All backends of a config: built once, then launched and watched for as long as `run` runs.

Rules:
- Whoever builds a fleet says whether it launches engines itself. Where another process does (the gateway with several
  workers), that one tells the places of the engines, and `place` takes them over.
- Nothing runs before `run` and nothing after it, however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from backends import registry
from backends.base import Health
from gateway.config import Backend, Config
from gateway.fleet.breaker import Breaker, Settings
from gateway.fleet.health import Watch
from gateway.fleet.pool import Pool, Replica
from gateway.fleet.supervise import Supervisor
from gateway.metrics import Metrics


def _nobody(name: str, url: str | None, reason: str) -> None:
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
        on_place: Callable[[str, str | None, str], None] = _nobody,
    ) -> None:
        """`on_models` is called when a backend has told other models than before; `on_place` with the name, URL (None:
        gone) and a reason whenever a launched engine has come or gone. `rng` breaks ties and spreads probes."""
        self.pool = Pool()
        self._metrics = metrics
        self._rng = rng
        self._watches: dict[str, Watch] = {}
        self._supervisors: list[Supervisor] = []
        wanted = config.defaults.breaker
        self._settings = Settings(wanted.failures, pause=wanted.pause, longest=wanted.longest)
        for name, backend in config.backends.items():
            replica = self._add(name, backend, on_models)
            if backend.url is not None:
                replica.place(backend.url)
            else:
                replica.note(Health.LOADING, "starting")
                if launches:
                    watch = self._watches[name]
                    supervisor = Supervisor(replica, backend.launch, self.pool, watch, metrics, rng, on_place)
                    self._supervisors.append(supervisor)
        metrics.before_scrape(self._count_connections)

    async def run(self) -> None:
        """Launch and watch until cancelled; then end what was launched and close every connection."""
        try:
            async with asyncio.TaskGroup() as group:
                for supervisor in self._supervisors:
                    group.create_task(supervisor.run())
                for watch in self._watches.values():
                    group.create_task(watch.run())
        finally:
            for replica in self.pool.replicas.values():
                replica.place(None)

    def place(self, name: str, url: str | None, reason: str) -> None:
        """Another process has launched an engine at `url`, or lost it."""
        replica = self.pool.replicas[name]
        replica.place(url)
        replica.note(Health.LOADING if url else Health.DOWN, reason)
        self._watches[name].woken.set()
        self.pool.announce()

    def _add(self, name: str, backend: Backend, on_models: Callable[[], None]) -> Replica:
        engine = registry.engine(backend.engine)(backend.options)
        models = backend.models
        if models is None and backend.launch is not None:
            models = engine.served_names(backend.launch)
        headers = {name.lower(): value.get_secret_value() for name, value in backend.headers.items()}
        if backend.api_key is not None:
            headers["authorization"] = f"Bearer {backend.api_key.get_secret_value()}"
        breaker = Breaker(self._rng, self._settings)
        replica = Replica(name, engine, self._metrics, breaker, models, headers)
        self.pool.replicas[name] = replica
        self._watches[name] = Watch(replica, self.pool, on_models, self._rng)
        return replica

    def _count_connections(self) -> None:
        for replica in self.pool.replicas.values():
            upstream = replica.upstream
            idle, total = (upstream.idle, upstream.open) if upstream is not None else (0, 0)
            self._metrics.connections.cell(replica.name, "idle").value = idle
            self._metrics.connections.cell(replica.name, "busy").value = total - idle

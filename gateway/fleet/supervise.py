"""A launched backend: ties the engine's process to the backend that requests see.

Rules:
- The backend has connections only while the process runs; each start has its own port and thus its own connections.
- An engine that is not ready within its start timeout is stopped and started anew, like one that died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from backends.base import Health, Launch, LaunchOptions
from gateway.fleet.health import Watch
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.pool import Backend, Pool
from gateway.telemetry.metrics import Metrics


class Supervisor:
    """Runs one launched backend for as long as the gateway runs."""

    def __init__(
        self,
        backend: Backend,
        options: LaunchOptions,
        pool: Pool,
        watch: Watch,
        metrics: Metrics,
        rng: Random,
        on_location: OnLocation,
        new_key: Callable[[], str],
    ) -> None:
        """`options` is the engine's own `launch_options`; `on_location` is told when the engine comes or goes;
        `new_key` makes the key of a start."""
        self._backend = backend
        self._options = options
        self._pool = pool
        self._watch = watch
        self._on_location = on_location
        self._restarts = metrics.backend_restarts.cell(backend.name, backend.engine.name)
        engine = backend.engine
        self.process = Process(
            backend.name, self._command, self._on_state, engine.crash_reason, rng, engine.log_level, new_key
        )

    async def run(self) -> None:
        """Start the engine, and start it again whenever it dies, until cancelled; then stop it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.process.run())
            group.create_task(self._hurry())

    def _command(self, host: str, port: int) -> Launch:
        return self._options.launch(host, port)

    def _on_state(self, state: ProcessState) -> None:
        if state is ProcessState.STARTING:
            return
        backend, process = self._backend, self.process
        running = state is ProcessState.RUNNING
        url = process.url if running else None
        reason = "starting" if running else process.last_error or "its process ended"
        backend.locate(url, process.key)
        backend.note(Health.LOADING if running else Health.DOWN, reason)
        self._restarts.value = process.restarts
        self._on_location(Location(backend.name, url, reason, process.key))
        self._watch.woken.set()
        self._pool.announce()

    async def _hurry(self) -> None:
        """End an engine that takes longer to become ready than it may."""
        loop = asyncio.get_running_loop()
        while True:
            deadline = self.process.start_deadline
            late = deadline is not None and loop.time() > deadline
            if late and self._backend.health is not Health.READY:
                self.process.kill("it was not ready in time (start_timeout)")
            try:
                async with asyncio.timeout(1.0):
                    await self._pool.change()
            except TimeoutError:
                pass

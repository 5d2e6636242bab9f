"""A launched backend: ties the engine's process to the replica that requests see.

Rules:
- The replica has connections only while the process runs; each start has its own port and thus its own connections.
- An engine that is not ready within its start timeout is stopped and started anew, like one that died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from pydantic import BaseModel

from backends.base import Health, Launch
from gateway.fleet.health import Watch
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.place import OnPlace, Place
from gateway.fleet.pool import Pool, Replica
from gateway.metrics import Metrics


class Supervisor:
    """Runs one launched backend for as long as the gateway runs."""

    def __init__(
        self,
        replica: Replica,
        options: BaseModel | None,
        pool: Pool,
        watch: Watch,
        metrics: Metrics,
        rng: Random,
        on_place: OnPlace,
        new_key: Callable[[], str],
    ) -> None:
        """`options` is the engine's own `launch_options`; `on_place` is told when the engine comes or goes; `new_key`
        makes the key of a start."""
        self._replica = replica
        self._options = options
        self._pool = pool
        self._watch = watch
        self._on_place = on_place
        self._restarts = metrics.backend_restarts.cell(replica.name, replica.engine.name)
        engine = replica.engine
        self.process = Process(
            replica.name, self._command, self._on_state, engine.crash_reason, rng, engine.log_level, new_key
        )

    async def run(self) -> None:
        """Start the engine, and start it again whenever it dies, until cancelled; then stop it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.process.run())
            group.create_task(self._hurry())

    def _command(self, host: str, port: int) -> Launch:
        return self._replica.engine.launch(self._options, host, port)

    def _on_state(self, state: ProcessState) -> None:
        if state is ProcessState.STARTING:
            return
        replica, process = self._replica, self.process
        running = state is ProcessState.RUNNING
        url = process.url if running else None
        reason = "starting" if running else process.last_error or "its process ended"
        replica.place(url, process.key)
        replica.note(Health.LOADING if running else Health.DOWN, reason)
        self._restarts.value = process.restarts
        self._on_place(Place(replica.name, url, reason, process.key))
        self._watch.woken.set()
        self._pool.announce()

    async def _hurry(self) -> None:
        """End an engine that takes longer to become ready than it may."""
        loop = asyncio.get_running_loop()
        while True:
            deadline = self.process.start_deadline
            late = deadline is not None and loop.time() > deadline
            if late and self._replica.health is not Health.READY:
                self.process.kill("it was not ready in time (start_timeout)")
            try:
                async with asyncio.timeout(1.0):
                    await self._pool.change()
            except TimeoutError:
                pass

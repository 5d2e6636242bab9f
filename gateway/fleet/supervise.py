"""A launched backend: ties the engine's process to the backend that requests see.

Rules:
- The backend has connections only while the process runs; each start has its own port and thus its own connections.
- From the moment its process has ended, an engine counts as starting; where it ends again and again, as down.
- An engine that is not ready within its start timeout is stopped and started anew, like one that died.
- When its launch options change, requests under way at the running engine get some time to finish before it is
  replaced. The new engine starts when the old one has ended: both may not fit into the machine.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from backends.base import Health, Launch
from gateway.config.backend import BackendConfig
from gateway.fleet.backend import Backend
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.pool import Pool
from gateway.telemetry.metrics import Metrics


def take_over(backend: Backend, location: Location) -> None:
    """Have a backend be where its engine is now, or wait for it.

    An engine that has died and is expected back soon counts as loading from that moment on, so requests wait for it.
    """
    backend.locate(location.url, location.key)
    loading = location.url is not None or location.coming
    if location.url is None:
        backend.start_slowly()
        backend.trouble(location.reason)
    backend.note(Health.LOADING if loading else Health.DOWN, location.reason)
    backend.woken.set()


class Supervisor:
    """Runs the engine of one launched backend."""

    def __init__(
        self,
        backend: Backend,
        settings: BackendConfig,
        pool: Pool,
        metrics: Metrics,
        rng: Random,
        on_location: OnLocation,
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        """Start nothing yet.

        `on_location` is told when the engine comes or goes. `drained` waits until no request runs at the backend, or
        until they have had their time.
        """
        self._backend = backend
        self._settings = settings
        self._pool = pool
        self._on_location = on_location
        self._drained = drained
        self._outdated = asyncio.Event()
        """Set while the engine that runs was started with other settings than those of now."""
        self._retired = False
        self._restarts = metrics.backends.restarts.cell(backend.name, backend.engine.name)
        self.process = Process(
            backend.name,
            self._command,
            self._on_state,
            self._crash_reason,
            rng,
            self._log_level,
            self._new_key,
        )

    async def run(self) -> None:
        """Start the engine, and start it again whenever it dies, until cancelled; then stop it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.process.run())
            group.create_task(self._hurry())
            group.create_task(self._renew())

    def relaunch(self, settings: BackendConfig) -> None:
        """Replace the engine by one launched with these settings once its requests have finished."""
        self._settings = settings
        self._outdated.set()

    def retire(self) -> None:
        """Start the engine no more, should it die; end it now if it has not even started."""
        self._retired = True
        if self.process.state is not ProcessState.RUNNING:
            self.process.end()

    def _command(self, host: str, port: int) -> Launch:
        self._outdated.clear()
        options = self._settings.launch
        assert options is not None
        return options.launch(host, port)

    def _new_key(self) -> str:
        """Make the key of a start. Where the config has one, the engine is told that: others may use it who know it."""
        key = self._settings.api_key
        return secrets.token_urlsafe() if key is None else key.get_secret_value()

    def _crash_reason(self, lines: Sequence[str]) -> str | None:
        return self._backend.engine.crash_reason(lines)

    def _log_level(self, line: str) -> int:
        return self._backend.engine.log_level(line)

    def _on_state(self, state: ProcessState) -> None:
        if state is ProcessState.STARTING:
            return
        backend, process = self._backend, self.process
        if self._retired:
            # Nobody needs to know but those who still use its connections.
            process.end()
            backend.locate(None)
            return
        running = state is ProcessState.RUNNING
        url = process.url if running else None
        if running:
            reason = "starting"
        elif state is ProcessState.ENDED:
            reason = "its process has ended"
        else:
            reason = process.last_error or "its process has ended"
        location = Location(backend.name, url, reason, process.key, process.coming)
        self._restarts.value = process.restarts
        take_over(backend, location)
        self._on_location(location)
        self._pool.announce()

    async def _hurry(self) -> None:
        """End an engine that takes longer to become ready than it may."""
        loop = asyncio.get_running_loop()
        while True:
            deadline = self.process.start_deadline
            late = deadline is not None and loop.time() > deadline
            replaced = self._outdated.is_set() or self._retired
            if late and not replaced and self._backend.health is not Health.READY:
                self.process.kill("it was not ready in time (start_timeout)")
            try:
                async with asyncio.timeout(1.0):
                    await self._pool.change()
            except TimeoutError:
                pass

    async def _renew(self) -> None:
        """Replace the engine whenever its settings have changed."""
        while True:
            await self._outdated.wait()
            if self.process.state is ProcessState.RUNNING:
                await self._drained()
            if self._outdated.is_set():
                self.process.renew()
                self._outdated.clear()

"""The runner of batches in one process: takes up those that nobody works on, and forgets files whose time is over.

Rules:
- A batch is worked on by one process. Who takes it up has its lease in the store, for processes on other machines, and
  its lock file, for those on this one. A lease of this machine whose lock is free belongs to a process that is gone, so
  after a `kill -9` a batch goes on as soon as a gateway runs again.
- What goes wrong with a batch (a full disk, a store that cannot be reached) leaves it as it is; it is taken up again
  later.
- The work is done in this process's own event loop, through its own dispatch, in the class `background`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.batches import shelf
from gateway.batches.records import BatchRecord
from gateway.batches.results import Lock
from gateway.batches.run import LEASE, Parts, Run
from gateway.batches.sending import Send
from gateway.config.batches import Batches
from gateway.errors import GatewayError
from gateway.store.process import this_host, this_process
from gateway.store.store import Store
from gateway.telemetry.of_batches import BatchMetrics

log = logging.getLogger("gateway.batches")

POLL: Final = 1.0
"""Seconds between two looks for batches that nobody works on."""
SWEEP: Final = 60.0
"""Seconds between two looks for files whose time is over."""
AGAIN: Final = 10.0
"""Seconds after which a batch is taken up again with which something went wrong."""
MOST: Final = 16
"""Batches that one process works on at once."""
_SEEN: Final = 256
"""Open batches that are looked at, at once."""
_LEFT_OVER: Final = 86_400.0
"""Seconds after which a file that nobody knows is one that a killed process has left."""


class Runner:
    """The batches of one process."""

    def __init__(
        self,
        store: Store,
        send: Send,
        metrics: BatchMetrics,
        settings: Callable[[], tuple[Batches, int]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Work on the batches of a store.

        `settings` returns what the config says of batches now, and of the largest body of a request.
        """
        self._host = this_host()
        self._parts = Parts(store, send, metrics, clock, this_process())
        self._metrics = metrics
        self._settings = settings
        self._locks: Path = store.folder("batches")
        self._running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._not_before: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._draining = False
        self._swept = 0.0

    def wake(self) -> None:
        """Look for batches at once: there is a new one, or one was cancelled."""
        self._woken.set()

    def drain(self) -> None:
        """Send no further line: the gateway stops."""
        self._draining = True
        for run, _ in self._running.values():
            run.drain()

    async def run(self) -> None:
        """Work on batches until cancelled. Those that have not ended are given back then."""
        try:
            while True:
                try:
                    await self._turn()
                except (GatewayError, OSError) as error:
                    log.debug("batches: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            self.drain()
            tasks = [task for _, task in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _turn(self) -> None:
        """Take up what nobody works on, and do what is due."""
        settings, body = self._settings()
        self._parts.limit(settings.concurrency, settings.lines, body)
        now = time.monotonic()
        if not self._draining and len(self._running) < MOST:
            when = self._parts.now()
            found = await self._parts.store.read(
                lambda connection: shelf.claimable(connection, when, self._host, _SEEN)
            )
            for record in found:
                is_due = now >= self._not_before.get(record.id, 0.0)
                if len(self._running) < MOST and record.id not in self._running and is_due:
                    await self._take(record)
        counts = await self._parts.store.read(shelf.counts)
        for status, count in counts.items():
            self._metrics.batches.cell(status).value = float(count)
        if now >= self._swept + SWEEP or not self._swept:
            self._swept = now
            await self._sweep()

    async def _take(self, record: BatchRecord) -> None:
        """Take up a batch, unless another process has it."""
        parts = self._parts
        try:
            lock = await asyncio.to_thread(Lock, self._locks / f"{record.id}.lock")
        except BlockingIOError:
            return
        until = parts.now() + LEASE
        try:
            mine = await parts.store.write(
                lambda connection: shelf.claim(connection, record, parts.me, until)
            )
        except BaseException:
            lock.release()
            raise
        if mine is None or self._draining:
            lock.release()
            return
        run = Run(parts, mine)
        self._running[record.id] = run, asyncio.create_task(self._work(run, mine, lock))

    async def _work(self, run: Run, record: BatchRecord, lock: Lock) -> None:
        """Work on a batch, and give it back."""
        log.info("batch %s of '%s': %s", record.id, record.owner, "begins" if not record.total else "goes on")
        try:
            await run.go()
        except (GatewayError, OSError) as error:
            log.warning("batch %s cannot go on now: %s", record.id, error)
            self._not_before[record.id] = time.monotonic() + AGAIN
        except Exception:
            log.exception("batch %s: a bug of the gateway", record.id)
            self._not_before[record.id] = time.monotonic() + AGAIN
        finally:
            if not run.ended:
                with contextlib.suppress(GatewayError):
                    await self._parts.store.write(
                        lambda connection: shelf.change(
                            connection, record.id, self._parts.me, lease_owner=None, lease_until=0
                        )
                    )
            lock.release(remove=run.ended)
            del self._running[record.id]
            if run.ended:
                self._not_before.pop(record.id, None)
            self.wake()

    async def _sweep(self) -> None:
        """Forget files whose time is over, and remove what nobody knows."""
        now = self._parts.now()
        gone = await self._parts.store.write(lambda connection: shelf.remove_expired(connection, now))
        await asyncio.to_thread(self._unlink, gone)
        old = await asyncio.to_thread(self._old)
        if old:
            unknown = await self._parts.store.read(lambda connection: shelf.unknown_files(connection, old))
            await asyncio.to_thread(self._unlink, unknown)

    def _old(self) -> list[str]:
        before = time.time() - _LEFT_OVER
        return [file.name for file in self._parts.files.iterdir() if file.stat().st_mtime < before][:1000]

    def _unlink(self, ids: list[str] | set[str]) -> None:
        for name in ids:
            (self._parts.files / name).unlink(missing_ok=True)

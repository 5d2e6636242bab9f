"""Calls that may take long or never return, each kind in a thread of its own, one at a time.

Rules:
- The event loop never waits for such a call longer than it says; nor does the end of the process.
- While a call hangs, its kind is not asked again. That it hangs is logged once, and that it answers again.
- What a call raises is a bug; the first of its kind is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger("gateway.machine")

T = TypeVar("T")


class Aside(Generic[T]):
    """One kind of call."""

    def __init__(self, what: str, call: Callable[[], T]) -> None:
        """Start no thread yet. `what` names the call in the log: what is read, and from where."""
        self._what = what
        self._call = call
        self._running: asyncio.Future[T] | None = None
        self._hangs = False
        self._bugs: set[str] = set()

    async def read(self, patience: float) -> T | None:
        """Return what the call returns; None where it fails, or takes longer than `patience` seconds."""
        if self._running is None:
            self._running = self._start()
        elif not self._running.done():
            return None
        running = self._running
        await asyncio.wait((running,), timeout=patience)
        if not running.done():
            self._hangs = True
            log.warning("%s cannot be read: that takes more than %g s", self._what, patience)
            return None
        self._running = None
        if self._hangs:
            self._hangs = False
            log.info("%s can be read again", self._what)
        try:
            return running.result()
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if words not in self._bugs:
                self._bugs.add(words)
                log.error("%s cannot be read, which is a bug", self._what, exc_info=error)
            return None

    def _start(self) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = self._call()
            except Exception as error:  # noqa: BLE001 (it is raised where the result is looked at)
                self._tell(loop, done, functools.partial(done.set_exception, error))
            else:
                self._tell(loop, done, functools.partial(done.set_result, result))

        # A thread of the loop's pool that hangs would be waited for at the end of the process.
        threading.Thread(target=work, name=self._what, daemon=True).start()
        return done

    @staticmethod
    def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], tell: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else tell())

"""How the process of a launched engine comes to be: it is started, or taken over from the gateway before.

Rules:
- A start that fails raises LaunchError, OSError or ValueError; what else an adapter raises is an AdapterBug.
- Below one `server.data` an engine that may outlive its gateway is run by one gateway at a time. Another one with the
  same folder cannot start it, and says why.
- An engine of which the next gateway cannot be told ends with this one.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from backends.base import Launch, LaunchError
from gateway.fleet import adoption
from gateway.fleet.adoption import Found, Succession
from gateway.fleet.left import Adopting, Left, Mark, digest, hold, write
from gateway.fleet.spawning import HOST, Folder, free_port, located, make_folder, port_of, spawn, with_key
from gateway.fleet.start import AdapterBug, Started

log = logging.getLogger("gateway.fleet")


class Arrivals:
    """The starts of one launched engine."""

    def __init__(self, name: str, command: Callable[[str, int], Launch], new_key: Callable[[], str]) -> None:
        """`name` is the backend's. `command` makes the command line for a host and port; `new_key` a start's key."""
        self.data: Path | None = None
        """The folder below which the engine's working folder is; None: that is a temporary one."""
        self.adopting: Adopting | None = None
        """Where the engine is left for the next gateway; None: it ends with this one."""
        self.gpus: tuple[int, ...] | None = None
        """The GPUs that were chosen for the engine; `command` knows of them."""
        self.own_key: Callable[[], str | None] = lambda: None
        """Tells the key that the config has for the engine; None: it has none."""
        self._name = name
        self._command = command
        self._new_key = new_key
        self._found: Found | None = None
        """An engine that was taken over, until `come`."""

    async def settle(self) -> bool:
        """Take over the engine that was left; end one that was started with other settings. Tell whether there is one.

        `come` returns it; `forgo` does without it.
        """
        if self.adopting is None or self._found is not None:
            return self._found is not None
        try:
            lock = hold(self.adopting, self._name)
        except (OSError, LaunchError):
            return False  # the next start says so
        chosen = self.gpus
        try:
            self._found = await Succession(self.adopting, self._name, self._wanted, self.own_key).take(lock)
        finally:
            if self._found is None:
                self.gpus = chosen
                os.close(lock)
        return self._found is not None

    def _wanted(self, left: Left) -> Launch:
        """Return how an engine that was left would be started now, where it is."""
        self.gpus = left.gpus
        return located(self._command(HOST, left.port))

    async def forgo(self, end: bool) -> None:
        """Do without an engine that was taken over: end it, or leave it to the next gateway."""
        found, self._found = self._found, None
        if found is None:
            return
        try:
            if end:
                await adoption.end(found.remote)
                found.mark.forget()
            else:
                adoption.leave(found.remote)
        finally:
            found.mark.release()

    async def come(self) -> Started:
        """Return the engine that was taken over, or else start one."""
        await self.settle()
        found = self._found
        if found is None:
            return await self._start()
        folder = make_folder(self._name, self.data)
        self._found = None
        found.mark.told = True
        control, left = found.remote.control, found.mark.left
        return Started(
            found.launch, left.port, folder, found.remote, control, left.key, found.mark, adopted=True
        )

    async def _start(self) -> Started:
        free = free_port()
        try:
            launch, key = with_key(located(self._command(HOST, free)), self._new_key)
        except (LaunchError, OSError, ValueError):
            raise
        except Exception as error:
            raise AdapterBug("its command line could not be made") from error
        port = port_of(launch, free)
        folder = make_folder(self._name, self.data)
        if self.adopting is not None and not folder.temporary:
            left = Left(secrets.token_hex(), port, 0, digest(launch), time.time(), key, self.gpus)
            mark = self._mark(self.adopting, left)
            if mark is not None:
                return await self._start_marked(launch, folder, mark)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                warden = await spawn(launch, folder, theirs)
        except BaseException:
            ours.close()
            folder.remove()
            raise
        return Started(launch, port, folder, warden, ours, key)

    async def _start_marked(self, launch: Launch, folder: Folder, mark: Mark) -> Started:
        """Start an engine that may outlive this gateway."""
        try:
            remote = await adoption.spawn(launch, folder, mark)
        except BaseException:
            mark.forget()
            mark.release()
            raise
        return Started(launch, mark.left.port, folder, remote, remote.control, mark.left.key, mark)

    def _mark(self, adopting: Adopting, left: Left) -> Mark | None:
        """Tell the next gateway of an engine that is about to start; return None where that cannot be."""
        lock = None
        try:
            lock = hold(adopting, self._name)
            write(adopting, self._name, left)
        except OSError as error:
            if lock is not None:
                os.close(lock)
            log.error("backend '%s' cannot be taken over by another gateway: %s", self._name, error)
            return None
        return Mark(adopting, self._name, left, lock)

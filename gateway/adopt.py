"""Make one running process fit another config: its backends and models, its limits on clients, its socket, its log.

Rules:
- In two steps, so that several processes can change together: `prepare` finds out whether it can be done and opens what
  has to be opened; `commit` does it. Between them, and after `abort`, nothing has changed.
- A new socket is open before the old one closes. Where it cannot be opened the old one stays and the rest of the config
  takes effect, unless it relies on the new address to keep strangers out.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import Protocol

from backends.base import OptionsError
from gateway import logs
from gateway.app import Gateway
from gateway.config.address import Listen
from gateway.config.disk import Disk
from gateway.config.file import Loaded
from gateway.config.outcome import Outcome, Refused
from gateway.config.schema import Config
from gateway.listening import opened, staying, why_not
from gateway.reload import Applied
from gateway.store.opening import staying as same_store


class Doors(Protocol):
    """What a server does for clients' connections, as far as the config decides about it."""

    @property
    def listener(self) -> socket.socket:
        """The socket that clients connect to now."""

    def limit(self, config: Config) -> None:
        """Hold clients to the limits and deadlines of a config from now on."""

    async def move(self, listener: socket.socket) -> None:
        """Accept clients on this socket and no longer on the one before."""

    def part(self) -> None:
        """Close each client's connection as soon as it is idle."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A config that can be applied."""

    loaded: Loaded
    listener: socket.socket | None = None
    """The new socket, if the config wants another address and that could be opened."""
    flaw: str = ""
    """Why the new address cannot be had; empty if it can, or is the one there is."""


class Process:
    """One process that serves, as the target of a reload."""

    def __init__(self, gateway: Gateway, doors: Doors, shared: bool = False) -> None:
        """Change this gateway and its server. `shared`: other processes listen on the same port."""
        self._gateway = gateway
        self._doors = doors
        self._shared = shared

    async def adopt(self, loaded: Loaded, disk: Disk) -> Applied:
        """Apply a config. Raises Refused where it cannot be; nothing has changed then."""
        prepared = self.prepare(loaded, loaded.config.server.listen)
        return await self.commit(prepared, move=prepared.listener is not None)

    def begin(self, loaded: Loaded) -> None:
        """Note for operators which config is in force from now on."""
        self._gateway.in_force.take(loaded.version, loaded.files, time.time())
        self._gateway.metrics.program.set_config(loaded.version)

    def use_profile(self, name: str | None) -> None:
        """Have a profile of the config be active, or none."""
        self._gateway.use_profile(name)

    def told(self, outcome: Outcome) -> None:
        """Remember what became of an attempt to reload."""
        self._gateway.in_force.last = outcome

    def prepare(self, loaded: Loaded, where: Listen) -> Prepared:
        """Return what `commit` needs to apply a config. Raises Refused where it cannot be applied.

        `where` is the address that the config says, with the port that is to be used.
        """
        try:
            self._gateway.fleet.check(loaded.config)
        except OptionsError as error:
            raise Refused(str(error)) from None
        now = self._gateway.core.snapshot.config
        if loaded.config.server.listen == now.server.listen:
            return Prepared(loaded)
        beside = self._doors.listener
        same_port = where.port == beside.getsockname()[1]
        try:
            return Prepared(loaded, opened(where, self._shared, beside if same_port else None))
        except OSError as error:
            flaw = why_not(where, error)
        staying(loaded.config, now, flaw)
        return Prepared(loaded, flaw=flaw)

    async def commit(self, prepared: Prepared, move: bool) -> Applied:
        """Apply a config that was prepared; `move`: with its new socket, if it has one."""
        before = self._gateway.core.snapshot.config
        config, notes = same_store(prepared.loaded.config, before)
        if config.server.listen != before.server.listen and not move:
            config, further = staying(config, before, prepared.flaw)
            notes += further
        self._gateway.apply(config)
        self.begin(prepared.loaded)
        self._doors.limit(config)
        if config.server.log != before.server.log:
            logs.change(config.server.log.level, config.server.log.format)
        if prepared.listener is not None and move:
            await self._doors.move(prepared.listener)
            if config.server.listen.loopback and not before.server.listen.loopback:
                # Who came in from elsewhere would still be taken for somebody on this machine.
                self._doors.part()
        else:
            self.abort(prepared)
        return Applied(config, notes)

    def abort(self, prepared: Prepared) -> None:
        """Drop what was prepared."""
        if prepared.listener is not None:
            with contextlib.suppress(OSError):
                prepared.listener.close()

"""The listener that `server.metrics.listen` sets apart: metrics and probes on a port of their own.

Rules:
- It speaks plain HTTP, whatever `server.tls` says: it is for a network of one's own.
- It stays open while the server drains, so that probes are answered and the last numbers can be read.
- Its address may change with the config. Where the new one cannot be had, that is logged and tried again; until then
  the listener before stays, or metrics stay on the main port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

import uvicorn

from gateway.api import observed
from gateway.app import Gateway
from gateway.config.address import Listen
from gateway.config.schema import Config
from gateway.front import Front
from gateway.listening import BACKLOG, opened, why_not

log = logging.getLogger("gateway.serve")

CONNECTIONS = 256
"""Most connections at once."""
AGAIN = 5.0
"""Seconds until an address that could not be had is tried again."""


class State:
    """What the connections of this listener share, as uvicorn defines it. The date is that of the main ones."""

    def __init__(self, main: Any) -> None:
        self._main = main
        self.total_requests = 0
        self.connections: set[Any] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every answer."""
        found: list[tuple[bytes, bytes]] = self._main.default_headers
        return found


class Aside:
    """The listener, if there is one."""

    def __init__(self, config: Config, gateway: Gateway, shared: bool = False) -> None:
        """Serve this gateway's metrics as a config says, once `begin` is called. `shared`: other processes do too."""
        self._gateway = gateway
        self._shared = shared
        self._front = Front(config, gateway, CONNECTIONS)
        self._settings = uvicorn.Config(
            observed.aside(gateway, gateway.answer),
            http=self._front.door,  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=config.server.timeouts.keep_alive,  # type: ignore[arg-type]
        )
        self._wanted = config.server.metrics.listen
        self._where: Listen | None = None
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._state: State | None = None
        self._app_state: dict[str, Any] = {}
        self._moving: asyncio.Task[None] | None = None

    async def begin(self, main: Any, app_state: dict[str, Any]) -> None:
        """Listen. `main` is what the connections of the main port share, `app_state` what the application does."""
        self._settings.load()
        self._state, self._app_state = State(main), app_state
        if not await self._try():
            self._moving = asyncio.create_task(self._keep_trying())

    def limit(self, config: Config) -> None:
        """Be as another config says from now on."""
        self._front.limit(config)
        self._wanted = config.server.metrics.listen
        if self._state is not None and self._wanted != self._where and self._moving is None:
            self._moving = asyncio.create_task(self._keep_trying())

    async def close(self) -> None:
        """Close the listener and its connections."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.wait([self._moving])
        self._shut()
        if self._state is None:
            return
        for connection in tuple(self._state.connections):
            connection.transport.abort()
        for task in tuple(self._state.tasks):
            task.cancel()
        while self._state.connections or self._state.tasks:  # noqa: ASYNC110 (within a turn or two)
            await asyncio.sleep(0)

    async def _keep_trying(self) -> None:
        told = ""
        while self._wanted != self._where:
            if await self._try(told):
                break
            told = str(self._wanted)
            await asyncio.sleep(AGAIN)
        self._moving = None

    async def _try(self, told: str = "") -> bool:
        """Listen where it is wanted. Return whether that is so; log why not, unless it was `told` of this address."""
        wanted = self._wanted
        if wanted is None:
            self._shut()
            return True
        same_port = self._where is not None and self._where.port == wanted.port
        try:
            made = opened(wanted, self._shared, self._socket if same_port else None)
        except OSError as error:
            if str(wanted) != told:
                log.error(
                    "metrics have no port of their own yet: %s; it is tried again", why_not(wanted, error)
                )
            return False
        server = await asyncio.get_running_loop().create_server(self._protocol, sock=made, backlog=BACKLOG)
        self._shut()
        self._server, self._socket, self._where = server, made, wanted
        self._gateway.core.has_aside = True
        return wanted == self._wanted

    def _shut(self) -> None:
        """Accept no more connections. Those that are open stay."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._server = self._socket = self._where = None
        self._gateway.core.has_aside = False

    def _protocol(self) -> asyncio.Protocol:
        return self._front.door(self._settings, self._state, self._app_state)  # type: ignore[arg-type, return-value]

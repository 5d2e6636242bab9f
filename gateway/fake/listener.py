"""A port that can be opened, closed and opened again, and that refuses connections in between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_TRIES = 1000
_TURNS = 3
"""Turns of the event loop in which an acceptance that is under way ends."""


class Listener:
    """One TCP port. It stays bound while it is shut, so that no other program takes it."""

    def __init__(self, protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        self._protocol = protocol
        self._host = host
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = self._bind(port)
        self.port: int = self._held.getsockname()[1]

    @property
    def url(self) -> str:
        return (
            f"http://[{self._host}]:{self.port}" if ":" in self._host else f"http://{self._host}:{self.port}"
        )

    async def open(self) -> None:
        """Accept connections."""
        if self._server is None and self._held is not None:
            held, self._held = self._held, None
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._protocol, sock=held, backlog=4096)

    async def shut(self) -> None:
        """Refuse new connections; those that exist stay."""
        server, self._server = self._server, None
        if server is None:
            return
        # asyncio leaks a connection whose acceptance is under way while its server is closed: first let those finish.
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        server.close()
        for _ in range(_TRIES):
            try:
                self._held = self._bind(self.port)
                return
            except OSError:  # the event loop closes the old socket in one of its next turns
                await asyncio.sleep(0.001)
        raise OSError(f"port {self.port} was taken by another program")

    def close(self) -> None:
        """Release the port."""
        if self._server is not None:
            self._server.close()
        if self._held is not None:
            self._held.close()
        self._server = self._held = None

    def _bind(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        held = socket.socket(family, socket.SOCK_STREAM)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setblocking(False)
            held.bind((self._host, port))
        except OSError:
            held.close()
            raise
        return held

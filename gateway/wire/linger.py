"""Close a connection so that its client sees the last answer, although it is still sending.

Rules:
- Closing a socket that has unread data resets the connection, and a reset destroys what the client has not read yet.
  So only the sending side is closed; what the client still sends is read and dropped until it closes or a bound is
  reached.
- The bounds are on the bytes, on the silence between them and on the whole time. Then the connection is closed anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

BYTES: Final = 256 << 20
"""Most bytes that are read and dropped."""
TICK: Final = 5.0
"""Seconds without a byte after which the client is not waited for any more."""
TICKS: Final = 6
"""How many times `TICK` all of it may take."""


class Connections(Protocol):
    """The set of open client connections."""

    def add(self, connection: object, /) -> None: ...

    def discard(self, connection: object, /) -> None: ...


class Lingering(asyncio.Protocol):
    """The protocol of a connection whose last answer has been written."""

    def __init__(self, transport: asyncio.Transport, connections: Connections) -> None:
        self.transport = transport
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._left = BYTES
        self._ticks = TICKS
        self._silent = True
        """Whether nothing has come since the last tick."""
        self._timer = self._loop.call_later(TICK, self._tick)

    def data_received(self, data: bytes) -> None:
        self._silent = False
        self._left -= len(data)
        if self._left < 0:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.discard(self)

    def shutdown(self) -> None:
        """Close the connection, because the server is stopping."""
        self.transport.close()

    def _tick(self) -> None:
        self._ticks -= 1
        if self._silent or not self._ticks:
            self.transport.abort()
            return
        self._silent = True
        self._timer = self._loop.call_later(TICK, self._tick)


def linger(transport: asyncio.Transport, connections: Connections) -> None:
    """Close a connection on which everything has been written, but not everything been read.

    The caller has given the connection up: from here on it is a member of `connections` on its own.
    """
    if transport.is_closing():
        return
    lingering = Lingering(transport, connections)
    connections.add(lingering)
    transport.set_protocol(lingering)
    transport.write_eof()
    if not transport.is_reading():
        transport.resume_reading()


class Ending:
    """The transport on which uvicorn answers a request with a body. Its `close` calls the given function instead."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.close = close
        self.is_closing = transport.is_closing
        self.write = transport.write

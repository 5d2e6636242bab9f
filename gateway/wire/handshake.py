"""The beginning of a client's connection with TLS: the handshake, after which `gateway.wire.tls` carries it.

Rules:
- A connection counts from the moment it is accepted. Its handshake must be over within the time that a head may take.
- The front door is made when the handshake is done.
- Whoever speaks HTTP without TLS is told so in plain HTTP. Mistakes of clients are counted, not logged.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import GatewayError, Own
from gateway.wire.checks import PLAIN_HTTP, TLS_HANDSHAKE, refusal
from gateway.wire.context import ServerContext
from gateway.wire.linger import linger
from gateway.wire.room import NEVER, is_crowded, make_room
from gateway.wire.tls import Tls

SPARE: Final = 64
"""Connections beyond their limit with which there is a handshake, so that their clients see why they are refused."""
_HELLO: Final = 0x16
"""The first byte of a client that speaks TLS: the record type of a handshake."""


class Handshake:
    """One client connection before it can carry requests, used as an `asyncio.Protocol`."""

    __slots__ = (
        "_context",
        "_door",
        "_incoming",
        "_loop",
        "_outgoing",
        "_refused",
        "_served",
        "_timer",
        "_tls",
        "idle_since",
        "transport",
    )

    def __init__(
        self,
        context: ServerContext,
        served: ssl.SSLContext,
        door: Callable[[], Any],
        refused: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Speak TLS as `served` says. `door` makes the protocol behind; `refused` counts those that never get there."""
        self._context: ServerContext = context
        self._served: ssl.SSLContext = served
        self._door: Callable[[], Any] = door
        self._refused: Callable[[str], None] = refused
        self._loop: asyncio.AbstractEventLoop = loop
        self._tls: ssl.SSLObject | None = None
        """Made when the client has said something: it takes memory."""
        self._incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self._outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since: float = NEVER
        """Since when the client owes the handshake."""
        self.transport: asyncio.Transport

    def shutdown(self) -> None:
        """Close the connection, because the server is stopping: nothing has been asked yet."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        context = self._context
        connections = context.state.connections
        connections.add(self)
        most = context.limits.connections
        crowded = is_crowded(transport)
        if len(connections) > most and (crowded or len(connections) > most + SPARE):
            self._refused("too_many_connections")
            transport.abort()
            return
        if crowded:
            make_room(connections)
        self.idle_since = self._loop.time()
        self._timer = self._loop.call_later(context.limits.header_seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._part()

    def eof_received(self) -> bool:
        """Close the transport."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: a handshake needs few bytes."""

    def resume_writing(self) -> None:
        """Do nothing, as above."""

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            if data[0] != _HELLO:
                self._refuse(data)
                return
            tls = self._tls = self._served.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(data)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except (OSError, ValueError):  # SSLError is an OSError
            self._refused(TLS_HANDSHAKE)
            self._flush()  # the alert that says why
            self.transport.close()
        else:
            self._flush()
            self._hand_over(tls)

    def _hand_over(self, tls: ssl.SSLObject) -> None:
        """Have the connection carry requests."""
        self._part()
        carrying = Tls(self.transport, self._served, tls, self._incoming, self._outgoing, self._loop)
        self.transport.set_protocol(carrying)  # type: ignore[arg-type]  # it has the methods, but not the base class
        carrying.begin(self._door())

    def _refuse(self, data: bytes) -> None:
        """Close the connection of a client that does not speak TLS. Tell it, if it speaks HTTP."""
        if not data[:1].isalpha():
            self._refused(TLS_HANDSHAKE)
            self.transport.close()
            return
        self._refused(PLAIN_HTTP)
        self._part()
        error = GatewayError(
            Own.INVALID, "this port speaks TLS: begin the URL with https://", code=PLAIN_HTTP
        )
        self.transport.write(refusal(error, ()))
        linger(self.transport, self._context.state.connections)

    def _too_slow(self) -> None:
        self._timer = None
        if self._tls is not None:
            self._refused(TLS_HANDSHAKE)
        self.transport.abort()

    def _part(self) -> None:
        """Give the connection up: it is closed, or somebody else carries it."""
        self._context.state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

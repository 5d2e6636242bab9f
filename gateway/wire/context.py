"""What the front doors of one server have in common: the protocol behind them, the hot paths, the limits.

Rules:
- Made once per server, and only read afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableSet
from typing import Protocol

from gateway.errors import GatewayError
from gateway.wire.heads import Handler
from gateway.wire.limits import Limits


class ServerState(Protocol):
    """What all connections of a server share, as uvicorn defines it."""

    @property
    def connections(self) -> MutableSet[object]: ...
    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]: ...


class Returned(Protocol):
    """The front door that a connection came through, which takes it back when it is idle."""

    def take_back(self) -> None:
        """Own an idle connection again; no bytes of a further request have been read."""


class FullProtocol(Protocol):
    """The protocol that can serve any request, as `gateway.wire.server.GatewayProtocol` implements it."""

    door: Returned | None
    refusal: GatewayError | None
    """Why the connection is to be closed at once; None if it is to be served."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...


class ServerContext:
    """What all front doors of one server share."""

    __slots__ = ("full", "hot", "keep_alive", "limits", "state")

    def __init__(
        self,
        full: Callable[[], FullProtocol],
        hot: Mapping[bytes, Handler],
        limits: Limits,
        state: ServerState,
        keep_alive: float,
    ) -> None:
        """Share these values.

        `full` creates a full protocol, `hot` are the handlers by path, `keep_alive` is how many seconds a client's
        connection may be idle.
        """
        self.full = full
        self.hot = hot
        self.limits = limits
        self.state = state
        self.keep_alive = keep_alive


class Listener(Protocol):
    """The receiver of events of the client's socket while a request is answered."""

    def pause(self) -> None:
        """Stop writing, because the socket buffer is full."""

    def resume(self) -> None:
        """Continue writing, because the socket buffer has room again."""

    def lost(self) -> None:
        """React to the client having left."""


class Through(Protocol):
    """What takes the bytes of a client whose connection has become a tunnel."""

    def from_client(self, data: bytes) -> bool:
        """Pass on what the client has sent. Return False if it is to send no more for now."""

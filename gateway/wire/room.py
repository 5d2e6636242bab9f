"""Make room for new connections when the descriptors that the process may open run out.

Rules:
- Connections of clients that are idle are closed, those first that have been for longest. The others are left alone:
  without an idle one, the system turns new connections away, and the server goes on.
- The system gives a new connection the lowest free descriptor, so its number tells how many are in use.
- A connection to an engine that finds no descriptor closes idle clients too, after idle connections to engines.
- The limit is asked for each time: it may be changed while the process runs.
"""

from __future__ import annotations

import asyncio
import resource
import weakref
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from gateway.wire.idle import TURNS

MOST: Final = 64
"""Most descriptors that are kept free."""
ROOM: Final = 16
"""Connections that are closed at once."""
NEVER: Final = float("inf")


def is_crowded(transport: asyncio.Transport) -> bool:
    """Tell whether this connection's descriptor is among the last ones: an eighth of them, or `MOST`."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    connection = transport.get_extra_info("socket")
    return bool(connection is not None and connection.fileno() >= limit - min(MOST, limit // 8))


def make_room(connections: Iterable[Any]) -> list[Any]:
    """Close some of the connections whose `idle_since` is a time and not `NEVER`, and return them.

    Those without it are not idle.
    """
    idle = [each for each in connections if _idle_since(each) != NEVER]
    idle.sort(key=_idle_since)
    closing = idle[:ROOM]
    for each in closing:
        each.shutdown()
    return closing


def watch(clients: AbstractSet[Any]) -> None:
    """Remember a server's client connections, for as long as it has them."""
    _servers[:] = [weakref.ref(clients), *(each for each in _servers if each() is not None)]


async def make_room_of_clients() -> bool:
    """Close idle clients of this process's servers, and wait until they are. Return whether there were any."""
    found = False
    for server in tuple(_servers):
        clients = server()
        if clients is None:
            continue
        closing = make_room(clients)
        found = found or bool(closing)
        for _ in range(TURNS):
            if clients.isdisjoint(closing):
                break
            await asyncio.sleep(0)
    return found


_servers: list[weakref.ref[AbstractSet[Any]]] = []


def _idle_since(connection: Any) -> float:
    since: float = getattr(connection, "idle_since", NEVER)
    return since

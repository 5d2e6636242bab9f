"""Make room for new connections when the descriptors that the process may open run out.

Rules:
- Connections of clients that are idle are closed, those first that have been for longest. The others are left alone:
  without an idle one, the system turns new connections away, and the server goes on.
- The system gives a new connection the lowest free descriptor, so its number tells how many are in use.
- The limit is asked for each time: it may be changed while the process runs.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable
from typing import Any, Final

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


def make_room(connections: Iterable[Any]) -> None:
    """Close some of the connections whose `idle_since` is a time and not `NEVER`. Those without it are not idle."""
    idle = [each for each in connections if _idle_since(each) != NEVER]
    idle.sort(key=_idle_since)
    for each in idle[:ROOM]:
        each.shutdown()


def _idle_since(connection: Any) -> float:
    since: float = getattr(connection, "idle_since", NEVER)
    return since

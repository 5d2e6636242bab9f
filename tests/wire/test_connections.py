"""The set of open connections: whoever waits until it is empty is told, whatever removes the last of them."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

from gateway.connections import Connections
from gateway.wire.context import ServerContext
from gateway.wire.door import Door
from gateway.wire.limits import Limits


async def test_who_waits_for_the_last_connection_is_told_when_it_has_gone() -> None:
    """A method of the set is called, not what the set would do without it: compiled code may skip the former."""
    connections = Connections()
    state = SimpleNamespace(connections=connections, default_headers=[])
    loop = asyncio.get_running_loop()
    door: Any = Door(ServerContext(cast(Any, None), {}, Limits(), cast(Any, state), 75.0), loop)
    here, there = socket.socketpair()
    here.setblocking(False)
    transport, _ = await loop.create_connection(lambda: door, sock=here)
    assert list(connections) == [door]
    waiting = asyncio.create_task(connections.gone())
    await asyncio.sleep(0)
    there.close()
    async with asyncio.timeout(20):
        await waiting
    transport.close()

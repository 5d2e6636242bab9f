"""The idle connections of one pool: when one may be used again, and when it is closed.

Rules:
- A connection is used again only after the event loop has polled its sockets once since it was given back, and only if
  there is nothing to read on it. What an engine sends unasked must never become the answer to the next request.
- An engine that has sent something unasked may do it again, a moment too late for that check. For some minutes no
  connection to it is used twice.
- An idle connection is closed by a timer, before the engine closes it.
- Where the process has no file descriptor left, the connections that have been idle longest are closed, whatever pool
  they are in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Final

from gateway.wire.connection import Connection

log = logging.getLogger("gateway.upstream")

NEVER: Final = float("-inf")
"""A loop time that has always passed."""
FOREVER: Final = float("inf")
"""A loop time that never comes."""
ROOM: Final = 8
"""How many connections are closed to make room for one: the gateway's clients need some too."""
TURNS: Final = 20
"""Turns of the event loop within which a connection that was closed gives its descriptor back."""
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)

_pools: dict[IdlePool, None] = {}
"""The pools that have idle connections."""


class IdlePool:
    """The idle connections to one base URL. Times are those of the event loop, in seconds."""

    __slots__ = (
        "_idle",
        "_polled",
        "_returned",
        "_timer",
        "_turning",
        "_unsafe_until",
        "distrust",
        "keep_alive",
        "most",
        "name",
    )

    def __init__(self, name: str, keep_alive: float, most: int, distrust: float = 300.0) -> None:
        """Start empty.

        `name` is for the log. `keep_alive` is for how many seconds an idle connection is kept, and `most` how many are.
        `distrust` is for how many seconds none is kept after the engine has sent something unasked.
        """
        self.name: str = name
        self.keep_alive: float = keep_alive
        self.most: int = most
        self.distrust: float = distrust
        self._returned: dict[Connection, None] = {}
        """Given back since the last turn of the event loop."""
        self._polled: dict[Connection, None] = {}
        """Given back before that turn, so that what they have to read is reported within this one."""
        self._idle: dict[Connection, None] = {}
        """Those that may be used, the one idle longest first."""
        self._turning: bool = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsafe_until: float = NEVER

    @property
    def size(self) -> int:
        """Return how many connections are idle, whether they may be used again yet or not."""
        return len(self._returned) + len(self._polled) + len(self._idle)

    def take(self) -> Connection | None:
        """Return the connection that was used last of those that may be used, or None."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.usable and not connection.has_input():
                connection.reused = True
                return connection
            connection.close()
        return None

    def put(self, connection: Connection, now: float) -> None:
        """Keep a connection that is free for another exchange, or close it."""
        if self.size >= self.most or now < self._unsafe_until:
            connection.close()
            return
        connection.idle_since = now
        self._returned[connection] = None
        if not self._turning:
            self._turning = True
            connection.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Move each connection one step nearer to its use.

        What is called soon runs before the sockets are polled. So only the second call finds a connection polled.
        """
        if self._polled:
            for connection in self._polled:
                self._idle[connection] = None
            if self._timer is None:
                self._arm(connection)
        self._polled, self._returned = self._returned, {}
        if self._polled:
            next(iter(self._polled)).loop.call_soon(self._turn)
        else:
            self._turning = False

    def forget(self, connection: Connection) -> None:
        """Take note that a connection has been closed."""
        self._returned.pop(connection, None)
        self._polled.pop(connection, None)
        self._idle.pop(connection, None)
        if connection.strayed and self.distrust:
            now = connection.loop.time()
            if now >= self._unsafe_until:
                log.warning(
                    "%s: the engine sent more than was asked for; for %g s no connection to it is used again",
                    self.name,
                    self.distrust,
                )
            self._unsafe_until = now + self.distrust
            self.clear()

    def clear(self) -> None:
        """Close every idle connection."""
        for group in (self._idle, self._polled, self._returned):
            for connection in tuple(group):
                connection.close()
            group.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _pools.pop(self, None)

    def oldest_since(self, loop: asyncio.AbstractEventLoop) -> float:
        """Return since when the connection of this event loop is idle that has been so longest; infinite for none."""
        for connection in self._idle:
            return connection.idle_since if connection.loop is loop else FOREVER
        return FOREVER

    def drop_oldest(self) -> Connection:
        """Close the connection that has been idle longest, of which there must be one, and return it."""
        connection = next(iter(self._idle))
        del self._idle[connection]
        connection.close()
        return connection

    # the timer

    def _arm(self, connection: Connection) -> None:
        self._timer = connection.loop.call_at(connection.idle_since + self.keep_alive, self._expire)
        _pools[self] = None

    def _expire(self) -> None:
        """Close what has been idle for too long, and set the timer for what is idle longest then."""
        self._timer = None
        while self._idle:
            connection = next(iter(self._idle))
            if connection.idle_since + self.keep_alive > connection.loop.time():
                self._arm(connection)
                return
            del self._idle[connection]
            connection.close()
        _pools.pop(self, None)


def is_out_of_descriptors(error: Exception) -> bool:
    """Tell whether an error says that this process, or the system, has no file descriptor left."""
    return isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR


async def make_room() -> bool:
    """Close the connections that have been idle longest, and wait until they are. Return whether there were any."""
    loop = asyncio.get_running_loop()
    closing: list[Connection] = []
    while _pools and len(closing) < ROOM:
        since, pool = min(((pool.oldest_since(loop), pool) for pool in _pools), key=_first)
        if since == FOREVER:
            break
        closing.append(pool.drop_oldest())
    for _ in range(TURNS):
        if not any(connection.is_open for connection in closing):
            break
        await asyncio.sleep(0)
    return bool(closing)


def _first(pair: tuple[float, IdlePool]) -> float:
    return pair[0]

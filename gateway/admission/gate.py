"""Whether a request may start now: a bounded number at a time per model, a bounded queue for the rest.

Rules:
- Deciding and counting are one plain call; a request that finds a slot waits for nothing and starts no task.
- Who waits is served in the order they came, for a bounded time, and eats no other clock. A client that leaves while
  waiting leaves the queue at once, by cancellation.
- A slot is given back exactly once. It goes straight to the next in the queue, so that nobody overtakes.
"""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.errors import GatewayError, Own


class Gate:
    """The slots of one model."""

    __slots__ = ("_capacity", "_free", "_queue", "_waiting")

    def __init__(self, slots: int, capacity: int) -> None:
        """`slots` requests run at once; `capacity` more may wait."""
        self._free = slots
        self._capacity = capacity
        self._queue: deque[asyncio.Future[None]] = deque()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def try_enter(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return True
        return False

    async def enter(self, deadline: float) -> None:
        """Wait for a slot until `deadline` (loop time). Raises GatewayError: queue full, or the wait too long."""
        if self._waiting >= self._capacity:
            raise GatewayError(Own.QUEUE_FULL, "the queue of this model is full", retry_after=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            if turn.cancelled():
                raise GatewayError(Own.QUEUE_TIMEOUT, "no slot became free in time", retry_after=5) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise
        finally:
            self._waiting -= 1
            if turn.cancelled() and turn in self._queue:
                self._queue.remove(turn)

    def leave(self) -> None:
        """Give a slot back."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

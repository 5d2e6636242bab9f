"""Whether a request may start now: a bounded number of slots, and a bounded queue for the rest.

Rules:
- Taking a free slot is one plain call that waits for nothing and starts no task.
- The queue is served in order of arrival, for a bounded time. A client that leaves while it waits leaves the queue at
  once, by cancellation. A request may wait at several gates, and takes the first slot that becomes free.
- A slot is released exactly once. It goes straight to the head of the queue, so that nobody overtakes.
- The numbers may change while slots are held and requests wait. With more slots those who wait enter at once; with
  fewer nobody is thrown out, and nobody enters until enough have left.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sequence

from gateway.errors import GatewayError, Own

UNLIMITED = sys.maxsize
"""The number of slots of a gate that does not limit anything."""


class Gate:
    """The slots of one model, or of one engine that runs only so many requests at once."""

    __slots__ = ("_capacity", "_held", "_queue", "_slots")

    def __init__(self, slots: int, capacity: int) -> None:
        """`slots` requests run at once; `capacity` more may wait."""
        self._slots = slots
        self._capacity = capacity
        self._held = 0
        self._queue: deque[asyncio.Future[Gate]] = deque()

    @property
    def slots(self) -> int:
        """How many requests may run at once."""
        return self._slots

    @property
    def held(self) -> int:
        """Slots that are taken now."""
        return self._held

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether no slot is held and nobody waits for one."""
        return not self._held and not self._queue

    def resize(self, slots: int, capacity: int) -> None:
        """Change the number of slots and the length of the queue; whoever fits in now enters at once.

        Nobody is thrown out: neither who holds a slot too many, nor who waits in a queue that has become too long.
        """
        self._slots, self._capacity = slots, capacity
        self._admit()

    @property
    def has_room(self) -> bool:
        """Whether a slot is free and nobody waits for it."""
        return self._held < self._slots and not self._queue

    def try_enter(self) -> bool:
        """Take a slot if one is free and nobody waits for it. Return whether it was taken."""
        if not self.has_room:
            return False
        self._held += 1
        return True

    def join(self, turn: asyncio.Future[Gate]) -> bool:
        """Let `turn` wait in the queue: it gets this gate as its result with the slot. Return False if it is full."""
        if len(self._queue) >= self._capacity:
            return False
        self._queue.append(turn)
        return True

    def withdraw(self, turn: asyncio.Future[Gate]) -> None:
        """Take `turn` out of the queue, if it is there."""
        if turn in self._queue:
            self._queue.remove(turn)

    def leave(self) -> None:
        """Release a slot."""
        self._held -= 1
        self._admit()

    def _admit(self) -> None:
        """Give free slots to those who wait longest."""
        while self._queue and self._held < self._slots:
            turn = self._queue.popleft()
            if not turn.done():
                self._held += 1
                turn.set_result(self)


async def enter(gates: Sequence[Gate], deadline: float) -> Gate:
    """Take a slot of one of several gates, waiting for it until `deadline` (loop time) where none is free.

    Return the gate whose slot was taken.

    Raises:
        GatewayError: All queues are full, or no slot became free in time.
    """
    for gate in gates:
        if gate.try_enter():
            return gate
    turn: asyncio.Future[Gate] = asyncio.get_running_loop().create_future()
    joined = [gate for gate in gates if gate.join(turn)]
    if not joined:
        raise GatewayError(Own.QUEUE_FULL, "the queue of this model is full", retry_after=1)
    try:
        async with asyncio.timeout_at(deadline):
            return await turn
    except TimeoutError:
        if turn.cancelled():
            raise GatewayError(Own.QUEUE_TIMEOUT, "no slot became free in time", retry_after=5) from None
        return turn.result()
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():
            turn.result().leave()
        raise
    finally:
        for gate in joined:
            gate.withdraw(turn)

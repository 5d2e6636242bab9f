"""Whether a request may start now: a bounded number of slots, and a bounded queue for the rest.

Rules:
- Taking a free slot is one plain call that waits for nothing and starts no task. So is giving it back.
- In which order those who wait are served is decided in `gateway.admission.fair`; how long it will take in
  `gateway.admission.pace`.
- A request may wait at several gates, and takes the first slot that becomes free. From then on it waits nowhere else.
- A slot is released exactly once. It goes straight to the one whose turn it is, so that nobody overtakes.
- The numbers may change while slots are held and requests wait. With more slots those who wait enter at once; with
  fewer nobody is thrown out, and nobody enters until enough have left.
- A gate belongs to one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final

from gateway.admission.fair import FairQueue
from gateway.admission.pace import UNKNOWN, Pace
from gateway.admission.tickets import Claim, Ticket

UNLIMITED: Final = sys.maxsize
"""The number of slots of a gate that does not limit anything."""
AGEING: Final = 10.0
"""Seconds after which a waiting request rises by one class, where the config does not say."""


class Gate:
    """The slots of one model, or of one engine that runs only so many requests at once."""

    __slots__ = ("_capacity", "_clock", "_held", "_pace", "_queue", "_slots")

    def __init__(
        self, slots: int, capacity: int, ageing: float = AGEING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`slots` requests run at once; `capacity` more may wait, and rise by a class every `ageing` seconds."""
        self._slots: int = slots
        self._capacity: int = capacity
        self._clock: Callable[[], float] = clock
        self._held: int = 0
        self._queue: FairQueue = FairQueue(ageing)
        self._pace: Pace = Pace()

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
        return self._queue.size

    @property
    def pressing(self) -> int:
        """Those of them that are not of the class `background`, which gives way to all others."""
        return self._queue.pressing

    @property
    def idle(self) -> bool:
        """Whether no slot is held and nobody waits for one."""
        return not self._held and not self._queue.size

    def resize(self, slots: int, capacity: int, ageing: float = AGEING) -> None:
        """Change the number of slots, the length of the queue and how fast requests rise; who fits in now enters.

        Nobody is thrown out: neither who holds a slot too many, nor who waits in a queue that has become too long.
        """
        self._slots, self._capacity = slots, capacity
        self._queue.change(ageing)
        if self._queue.size:
            self._let_in()

    @property
    def has_room(self) -> bool:
        """Whether a slot is free and nobody waits for it."""
        return self._held < self._slots and not self._queue.size

    def try_enter(self) -> bool:
        """Take a slot if one is free and nobody waits for it. Return whether it was taken."""
        if self._held >= self._slots or self._queue.size:
            return False
        self._held += 1
        return True

    def leave(self) -> None:
        """Release a slot."""
        assert self._held > 0, "a slot is released once"
        self._held -= 1
        if self._queue.size:
            self._let_in()

    # for those who wait

    def join(self, turn: Turn) -> Place:
        """Let a request wait here; the queue may be too long then, until `fit` is called."""
        now = self._clock()
        if not self._queue.size:
            self._pace.begin(now)
        place = Place(turn.claim, self, turn)
        self._queue.join(place, now)
        turn.places.append(place)
        return place

    def fit(self, place: Place) -> None:
        """Take a request out of the queue if it is too long: the one that came last, or one that had too much of it."""
        if self._queue.size > self._capacity:
            victim = self._queue.victim(place, self._clock())
            assert isinstance(victim, Place) and victim.turn is not None
            victim.turn.lose(victim)

    def withdraw(self, place: Place) -> None:
        """Take a request out of the queue, if it is there."""
        if place.waits:
            now = self._clock()
            self._queue.withdraw(place, now)
            if not self._queue.size:
                self._pace.rest(now)

    def settle(self, place: Place, used: float) -> None:
        """Charge the key of a request that has entered with the tokens it took, instead of what was expected."""
        self._queue.settle(place, used)

    def position(self, place: Place) -> int:
        """Return about how many are served before this one if nobody else comes, plus one."""
        return self._queue.position(place, self._clock())

    def wait(self, requests: int) -> float:
        """Return about how many seconds it takes until so many requests have entered; `UNKNOWN` if nobody can say."""
        interval = self._pace.interval(self._clock())
        return interval if interval == UNKNOWN else interval * requests

    def doubt(self, requests: int) -> float:
        """Return by how many seconds `wait` is commonly wrong."""
        return self._pace.doubt(requests)

    @property
    def service(self) -> float:
        """About how many seconds a request holds its slot while others wait; `UNKNOWN` if nobody can say."""
        return self.wait(self._held)

    def _let_in(self) -> None:
        """Give free slots to those whose turn it is."""
        queue = self._queue
        now = self._clock()
        while queue.size and self._held < self._slots:
            place = queue.first(now)
            assert isinstance(place, Place) and place.turn is not None
            if place.turn.take(place):
                self._held += 1
                self._pace.entered(now, self._slots)
            else:
                queue.settle(place, 0.0)
        if not queue.size:
            self._pace.rest(now)


class Place(Ticket):
    """The place of one request at one gate: first in its queue, then one of its slots."""

    __slots__ = ("gate", "turn")

    def __init__(self, claim: Claim, gate: Gate, turn: Turn | None = None) -> None:
        """`turn` waits for it; None where the slot is taken already."""
        super().__init__(claim)
        self.gate: Gate = gate
        self.turn: Turn | None = turn

    def settle(self, used: float) -> None:
        """Charge the key of the request, which has entered, with the tokens it took instead of what was expected."""
        self.gate.settle(self, used)

    def leave(self) -> None:
        """Release the slot without having used it."""
        self.settle(0.0)
        self.gate.leave()


class Turn:
    """One request that waits, at one gate or at several.

    `future` gets the place with the slot; None where the request has lost all its places.
    """

    __slots__ = ("claim", "future", "places")

    def __init__(self, claim: Claim, future: asyncio.Future[Place | None]) -> None:
        self.claim: Claim = claim
        self.future: asyncio.Future[Place | None] = future
        self.places: list[Place] = []
        """Where it waits."""

    def take(self, place: Place) -> bool:
        """Take the slot of one place, and wait nowhere else. Return False if nobody waits for it any more."""
        if self.future.done():
            return False
        self.places.remove(place)
        self.withdraw()
        self.future.set_result(place)
        return True

    def lose(self, place: Place) -> None:
        """Wait no more in this place."""
        self.places.remove(place)
        place.gate.withdraw(place)
        if not self.places and not self.future.done():
            self.future.set_result(None)

    def withdraw(self) -> None:
        """Wait nowhere any more."""
        places, self.places = self.places, []
        for place in places:
            place.gate.withdraw(place)

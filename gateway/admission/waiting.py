"""Waiting for a slot: how long, what is told meanwhile, and when it is refused.

Rules:
- Who cannot get a slot in time, as far as was measured, is refused at once instead of after the wait. Where nothing was
  measured nobody is.
- A refusal says where the request stood, how many wait and when it is worth while to come again.
- A client that leaves while it waits leaves the queue at once, by cancellation; no slot is lost, whenever that is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.admission.gate import Gate, Place, Turn
from gateway.admission.pace import UNKNOWN
from gateway.admission.tickets import Claim
from gateway.errors import GatewayError, Own

_JITTER: Final = 0.25
"""By how much a time to come again is prolonged at most, so that not all come at once."""
_SOON: Final = 1.0
"""Seconds after which to come again to a full queue whose pace is unknown."""
_LATER: Final = 5.0
"""Seconds after which to come again where a slot was waited for in vain and the pace is unknown."""


class Patience:
    """How long a request may wait. All times are those of the event loop.

    It needs a slot at `until` and has to be over at `end`; None: however long it takes once it has a slot.
    """

    __slots__ = ("end", "until")

    def __init__(self, until: float, end: float | None = None) -> None:
        self.until: float = until
        self.end: float | None = end


class Outlook:
    """Where a request stands among those that wait, and about how long it will take."""

    __slots__ = ("doubt", "length", "position", "seconds", "service")

    def __init__(self, turn: Turn) -> None:
        """Look at all places of `turn`, which has one at least; the one with the shortest wait counts."""
        self.position: int = 0
        self.length: int = 0
        self.seconds: float = UNKNOWN
        """`UNKNOWN` where nobody can say."""
        self.doubt: float = 0.0
        """By how much that is commonly wrong."""
        self.service: float = UNKNOWN
        """How long the request will hold its slot."""
        for place in turn.places:
            gate = place.gate
            position = gate.position(place)
            seconds = gate.wait(position)
            if not self.position or _sooner(seconds, position, self.seconds, self.position):
                self.position, self.seconds = position, seconds
                self.doubt, self.length, self.service = gate.doubt(position), gate.waiting, gate.service

    def words(self) -> str:
        """Return it in words, such as `3 of 12, about 4 s`."""
        said = f"{self.position} of {self.length}"
        return said if self.seconds == UNKNOWN else f"{said}, about {max(1, round(self.seconds))} s"


def _sooner(seconds: float, position: int, than_seconds: float, than_position: int) -> bool:
    if UNKNOWN in (seconds, than_seconds):
        return position < than_position
    return seconds < than_seconds


class Waiting:
    """One request that waits for a slot of any of several gates."""

    __slots__ = ("_rng", "_turn", "outlook")

    def __init__(self, gates: Sequence[Gate], claim: Claim, patience: Patience, rng: Random) -> None:
        """Join the queues. Within an event loop; `rng` spreads the times at which those come again who are refused.

        Raises:
            GatewayError: The queues are full, or none is fast enough.
        """
        loop = asyncio.get_running_loop()
        self._rng: Random = rng
        self._turn: Turn = Turn(claim, loop.create_future())
        for gate in gates:
            gate.join(self._turn)
        self.outlook: Outlook = Outlook(self._turn)
        """Where it stood when it came."""
        missing = self._missing(patience, loop.time())
        if missing > 0.0:
            self._turn.withdraw()
            raise self._refusal(
                Own.QUEUE_DEADLINE,
                f"it would not be answered in time: it would be {self.outlook.words()} in the queue of this model",
                missing,
            )
        for place in list(self._turn.places):
            place.gate.fit(place)
        if not self._turn.places:
            waiting = self.outlook.length - 1
            raise self._refusal(
                Own.QUEUE_FULL,
                f"the queue of this model is full: {waiting} {'request waits' if waiting == 1 else 'requests wait'}"
                + self._takes(),
                self._drained(_SOON),
            )

    def words(self) -> str:
        """Return where it stands now, in words; empty where it waits no more."""
        return Outlook(self._turn).words() if self._turn.places else ""

    async def place(self, until: float) -> Place:
        """Wait for a slot until `until` (loop time), and take it.

        Raises:
            GatewayError: None became free in time, or others took the places in the queues.
        """
        turn = self._turn
        try:
            async with asyncio.timeout_at(until):
                place = await turn.future
        except TimeoutError:
            if turn.future.cancelled():
                raise self._refusal(
                    Own.QUEUE_TIMEOUT,
                    f"no slot became free in time: it was {self.outlook.words()} in the queue of this model at first",
                    self._drained(_LATER),
                ) from None
            place = turn.future.result()
        except asyncio.CancelledError:
            if turn.future.done() and not turn.future.cancelled():
                taken = turn.future.result()
                if taken is not None:
                    taken.leave()
            raise
        finally:
            turn.withdraw()
        if place is None:
            raise self._refusal(
                Own.QUEUE_FULL,
                "the queue of this model is full, and requests came that go before this one",
                self._drained(_SOON),
                code="queue_displaced",
            )
        return place

    def _missing(self, patience: Patience, now: float) -> float:
        """Return by how many seconds a slot would come too late; 0 if in time, as far as anybody can say."""
        seconds, service = self.outlook.seconds, self.outlook.service
        if seconds == UNKNOWN:
            return 0.0
        at = now + seconds + self.outlook.doubt
        late = at - patience.until
        if patience.end is not None:
            late = max(late, at + max(service, 0.0) - patience.end)
        return max(late, 0.0)

    def _takes(self) -> str:
        seconds = self._drained(UNKNOWN)
        return (
            ""
            if seconds == UNKNOWN
            else f", and it takes about {max(1, round(seconds))} s until all have a slot"
        )

    def _drained(self, unknown: float) -> float:
        """Return the seconds until everybody who waits has a slot; `unknown` where nobody can say."""
        outlook = self.outlook
        return unknown if outlook.seconds == UNKNOWN else outlook.seconds * outlook.length / outlook.position

    def _refusal(self, kind: Own, message: str, seconds: float, code: str | None = None) -> GatewayError:
        """Return the error of a refused request, which may come again after about so many seconds."""
        later = math.ceil(max(1.0, seconds) * self._rng.uniform(1.0, 1.0 + _JITTER))
        return GatewayError(kind, message, code=code, retry_after=later)


async def enter(gates: Sequence[Gate], claim: Claim, patience: Patience, rng: Random) -> Place:
    """Take a slot of one of several gates, waiting for it where none is free.

    Raises:
        GatewayError: As `Waiting`, at once or after a wait.
    """
    place = enter_now(gates, claim)
    if place is None:
        place = await Waiting(gates, claim, patience, rng).place(patience.until)
    return place


def enter_now(gates: Sequence[Gate], claim: Claim) -> Place | None:
    """Take a free slot of one of several gates; None where there is none."""
    for gate in gates:
        if gate.try_enter():
            return Place(claim, gate)
    return None

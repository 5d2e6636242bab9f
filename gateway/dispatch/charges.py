"""What the keys of requests that waited are charged: the tokens that they really took, told to the gates they passed.

Rules:
- Made for a request that waited, and for no other.
- An answer whose engine did not count tokens leaves the estimate as it is; what never reached an engine costs nothing.
"""

from __future__ import annotations

from gateway.admission.gate import Place
from gateway.telemetry.attempt import Tried


class Charges:
    """The places at gates that one request got after it had waited, until they are settled."""

    __slots__ = ("_model", "_slot", "_uncounted", "_used")

    def __init__(self) -> None:
        self._model: Place | None = None
        self._slot: Place | None = None
        self._used: float = 0.0
        self._uncounted: bool = False

    def take(self, place: Place, backend: bool) -> None:
        """Take note of a place: a slot of the model, or of the backend that is leased with it."""
        if backend:
            self._slot = place
        else:
            self._model = place

    def attempted(self, attempt: Tried | None) -> None:
        """Settle the slot of a backend whose lease is over; None: no attempt was made with it."""
        used, counted = 0.0, True
        if attempt is not None:
            used = float(attempt.tokens.input + attempt.tokens.output)
            counted = used > 0.0 or not attempt.sent_at
        self._used += used
        self._uncounted = self._uncounted or not counted
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.settle(used if counted else slot.cost)

    def over(self) -> None:
        """Settle the slot of the model: the request is over."""
        place, self._model = self._model, None
        if place is not None:
            place.settle(place.cost if self._uncounted and not self._used else self._used)


def charged(charges: Charges | None, place: Place, backend: bool = False) -> Charges:
    """Return the charges of a request, which begin with its first place, with another one: see `Charges.take`."""
    charges = charges or Charges()
    charges.take(place, backend)
    return charges

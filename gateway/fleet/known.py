"""What is remembered of a backend beside its state: troubles, its list of models, what it may have died of.

Rules:
- Plain values, written by `gateway.fleet` and `gateway.dispatch` alone.
"""

from __future__ import annotations

from typing import NamedTuple


class Trouble(NamedTuple):
    """What last went wrong at a backend, in one line, and when: seconds since the epoch."""

    message: str
    time: float


class Death:
    """The suspicion that an engine died of the only request it had.

    `request` is a number that is the same for the same body, `id` the request's id for the log, `at` the loop's time.
    """

    __slots__ = ("at", "backend", "confirmed", "id", "request")

    def __init__(self, request: int, id: str, backend: str, at: float) -> None:
        self.request = request
        self.id = id
        self.backend = backend
        self.at = at
        self.confirmed = False
        """Whether the engine was found to be gone afterwards."""


class Listed:
    """What is known of an engine's list of models, beside the models."""

    __slots__ = ("at", "flaw", "targeted")

    def __init__(self) -> None:
        self.at: float | None = None
        """The loop's time when the engine last gave a good one; None if it has not."""
        self.flaw: str = ""
        """What is wrong with it, in one line; empty if nothing is."""
        self.targeted: bool = False
        """Whether the config has models that name the backend as a target, whatever it tells."""

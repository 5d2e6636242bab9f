"""What requests must know of a launched engine's life: whether it starts for them, and why it did not.

Rules:
- Every process that serves has this of each launched engine. The process that launches decides, and tells the others.
- A request that waits for an engine says so by a `Want`, and takes it back however its wait ends.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.residency.state import AT_REST, LOADING, EngineState


class Wishes(Protocol):
    """What the requests of this process want of launched engines, as it is told to the process that launches."""

    def want(self, name: str, waiting: int) -> None:
        """Tell how many of them wait for the engine of a backend now."""

    def keep(self, name: str, seconds: float, at_once: bool) -> None:
        """Tell how many seconds without a request an engine is to stay, maybe infinite, because one has said so.

        `at_once`: it is to stop as soon as the requests under way have ended.
        """


class Residence:
    """The life of one launched engine, as this process knows it."""

    __slots__ = (
        "_name",
        "_wishes",
        "answers",
        "failures",
        "halted",
        "held",
        "load_seconds",
        "longest_start",
        "max_wait",
        "on_demand",
        "started_at",
        "state",
        "waiting",
        "why",
    )

    def __init__(self, name: str, wishes: Wishes) -> None:
        """Start with an engine that always runs. `name` is that of its backend."""
        self._name: Final = name
        self._wishes: Final = wishes
        self.on_demand: bool = False
        """Whether it starts when a request needs it."""
        self.max_wait: float | None = None
        """Seconds that a request may wait for its start; None: until that has succeeded or failed."""
        self.longest_start: float = 0.0
        """Seconds after which a start has done one or the other."""
        self.started_at: float = 0.0
        """When its last start began, in the event loop's time of this process."""
        self.state: EngineState = EngineState.STOPPED
        self.load_seconds: float = 0.0
        """How long its last start took; 0 where it has not been ready yet."""
        self.halted: bool = False
        """Whether an operator has stopped it, and nobody but an operator starts it."""
        self.held: str = ""
        """Why the backend takes no requests although its engine answers: it warms up, or is about to stop."""
        self.answers: bool = False
        """Whether the engine has answered that it is ready, while the backend is held."""
        self.failures: int = 0
        """How often those who waited have been told that it does not come."""
        self.why: str = ""
        """Why, the last time."""
        self.waiting: int = 0
        """Requests of this process that wait for it."""

    def become(self, state: EngineState, now: float) -> None:
        """Be in a state, at `now`."""
        if state in LOADING and self.state not in LOADING:
            self.started_at = now
        self.state = state

    def patience(self, came: float) -> float:
        """Return the time until which a request may wait that began to at `came`."""
        if self.max_wait is not None:
            return came + self.max_wait
        return max(came, self.started_at) + self.longest_start

    def want(self) -> Want:
        """Say that one more request waits."""
        self._count(1)
        return Want(self)

    def keep(self, seconds: float, at_once: bool = False) -> None:
        """Have the engine stay so long without a request, as `Wishes.keep` says."""
        self._wishes.keep(self._name, seconds, at_once)

    def _count(self, by: int) -> None:
        self.waiting += by
        self._wishes.want(self._name, self.waiting)


def rests(residence: Residence | None) -> bool:
    """Tell whether an engine does not run, and that is as it should be; None: another one than ours."""
    return residence is not None and residence.on_demand and residence.state in AT_REST


def stops(residence: Residence | None) -> bool:
    """Tell whether an engine is about to stop: what it says, or does not say any more, means nothing."""
    return residence is not None and residence.state is EngineState.DRAINING


class Want:
    """The wait of one request for an engine."""

    __slots__ = ("_failures", "_open", "residence")

    def __init__(self, residence: Residence) -> None:
        self.residence: Final = residence
        self._failures: Final = residence.failures
        self._open = True

    @property
    def failed(self) -> bool:
        """Whether those who wait have been told meanwhile that the engine does not come."""
        return self.residence.failures != self._failures

    def drop(self) -> None:
        """Wait no longer. Nothing happens where that was said before."""
        if self._open:
            self._open = False
            self.residence._count(-1)

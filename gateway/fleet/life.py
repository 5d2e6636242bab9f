"""The life of one launched engine, in the process that launches it: its state, and since when.

Rules:
- Times are the event loop's.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.residency.state import LOADING, EngineState


class Life:
    """Where an engine is in its life, and what of its past decisions look at."""

    __slots__ = (
        "adopted",
        "began_at",
        "failures",
        "from_sleep",
        "halted",
        "held",
        "load_seconds",
        "on_fail",
        "ordered",
        "ready_at",
        "served",
        "state",
        "to_sleep",
        "used_at",
    )

    def __init__(self) -> None:
        """Start with an engine that has never run."""
        self.state: EngineState = EngineState.STOPPED
        self.began_at: float = 0.0
        """When its last start began."""
        self.ready_at: float = 0.0
        """When it last became ready."""
        self.used_at: float = 0.0
        """When it was last seen in use, or became ready."""
        self.load_seconds: float = 0.0
        """How long its last start took; 0 where that is not known."""
        self.adopted: bool = False
        """Whether this start took over what the gateway before had started."""
        self.served: bool = False
        """Whether it has been ready since its last start."""
        self.held: str = ""
        """Why it takes no requests although it answers; empty if it does."""
        self.from_sleep: bool = False
        """Whether it slept before it began to wake up, or to stop."""
        self.to_sleep: bool = False
        """Whether it falls asleep once its requests have ended."""
        self.failures: int = 0
        """How often those who waited have been told that it does not come."""
        self.halted: bool = False
        """Whether an operator has stopped it, and nobody but an operator starts it."""
        self.ordered: bool = False
        """Whether an operator has started it: it starts, and goes on to do so, though nobody waits for it."""
        self.on_fail: Callable[[], None] = _nothing
        """Called at the moment at which those who wait are told that the engine does not come."""

    def begin(self, now: float) -> None:
        """Begin a start."""
        self.began_at, self.served, self.adopted = now, False, False

    def arrive(self, adopted: bool, load_seconds: float) -> None:
        """Have a process, which was taken over or not; its start took so long; 0: nobody knows yet."""
        self.adopted = adopted
        self.load_seconds = load_seconds or self.load_seconds

    def result(self, state: EngineState) -> str:
        """Return what becomes of the start that ends in a state."""
        if state in (EngineState.READY, EngineState.SLEEPING):
            return "adopted" if self.adopted else "ready"
        return "failed" if state is EngineState.FAILED else "cancelled"

    def become(self, state: EngineState, now: float) -> bool:
        """Be in another state. Return whether it is known now how long a start of the process took."""
        if state in (EngineState.READY, EngineState.SLEEPING) and self.state in LOADING:
            self.used_at = now
            self.served, self.ordered = True, False
        loaded = False
        if state is EngineState.READY and self.state in LOADING:
            self.ready_at = now
            if not self.adopted:
                self.load_seconds, loaded = now - self.began_at, not self.from_sleep
        if state not in LOADING and state is not EngineState.DRAINING:
            self.from_sleep = self.to_sleep = False
        self.state = state
        return loaded

    def fail(self) -> None:
        """Take note that those who wait are told that the engine does not come."""
        self.failures += 1
        self.ordered = False
        self.on_fail()


def _nothing() -> None:
    """Do nothing."""

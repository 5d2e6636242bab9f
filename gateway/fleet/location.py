"""The location of a launched engine, as the process that launched it tells those that send requests there.

Rules:
- The key is in no `repr`, so that it stays out of logs and tracebacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.residency.state import EngineState


@dataclass(frozen=True, slots=True)
class Location:
    """Where an engine is now, or that it is gone."""

    name: str
    """The name of the backend."""
    url: str | None
    """Where it answers; None while it does not run."""
    reason: str
    """Why it is not ready yet, or why it is gone; one line."""
    key: str | None = field(default=None, repr=False)
    """The bearer token that the engine asks of its clients; None if it asks for none."""
    coming: bool = False
    """Whether an engine that is gone is expected back soon."""
    state: EngineState = EngineState.STARTING
    held: str = ""
    """Why it takes no requests although it answers; empty if it does."""
    failures: int = 0
    """How often those who waited for it were told that it does not come; `reason` says why, the last time."""
    halted: bool = False
    """Whether an operator has stopped it, and nobody but an operator starts it."""
    load_seconds: float = 0.0
    """How long its last start took; 0 where it has not been ready yet."""


OnLocation = Callable[[Location], None]

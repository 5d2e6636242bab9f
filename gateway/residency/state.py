"""The life of a launched engine: its states, and what of them takes memory."""

from __future__ import annotations

import enum
from typing import Final


class EngineState(enum.StrEnum):
    """Where a launched engine is in its life."""

    STOPPED = "stopped"
    """Its process does not run."""
    STARTING = "starting"
    """Its process runs, or is about to, and loads the model; or it wakes up."""
    WARMING = "warming"
    """It answers, and gets its first prompts (`launch.warm`) before clients' requests."""
    READY = "ready"
    SLEEPING = "sleeping"
    """Its process runs, and has given most of its memory back."""
    DRAINING = "draining"
    """It takes no new requests, and stops or falls asleep when those under way have ended."""
    FAILED = "failed"
    """Its last start failed, or it has died. The next request starts it anew."""


LOADING: Final = frozenset((EngineState.STARTING, EngineState.WARMING))
RUNNING: Final = LOADING | {EngineState.READY, EngineState.DRAINING}
"""States in which an engine has, or is about to take, all the memory it needs."""
UNLOADABLE: Final = frozenset((EngineState.READY, EngineState.SLEEPING))
"""States in which an engine has memory that it can give back when a client says so."""
AT_REST: Final = frozenset((EngineState.STOPPED, EngineState.FAILED, EngineState.SLEEPING))
"""States from which an engine starts when it is asked for."""

"""Where a LoRA adapter is loaded that a request waits for, and which other one makes room: a pure decision.

Rules:
- An adapter that an engine has, or gets, is loaded nowhere else.
- Where an engine has a free slot, none is unloaded. Of those that have one, the least loaded engine is taken.
- Else the adapter that was not used for longest makes room, of those with requests only if there are no others. So
  whoever waits gets a turn. One that has requests takes no new ones then, and is unloaded when they are over.
- One that comes or goes has its slot until it is there, or gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """An adapter in an engine. `used` is the time of its last request; `moving`: it is being loaded or unloaded."""

    name: str
    requests: int = 0
    used: float = 0.0
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that could have an adapter: `slots` is how many it may have at once, None for any number."""

    name: str
    held: tuple[Held, ...] = ()
    slots: int | None = None
    load: float = 0.0
    """Requests that are at the engine."""


@dataclass(frozen=True, slots=True)
class Load:
    """An adapter is loaded at an engine, once `unload` is gone; that is empty where there is room."""

    engine: str
    unload: str = ""


def decide(adapter: str, engines: Sequence[Engine]) -> Load | None:
    """Return where to load an adapter; None where it is there or comes, or nothing can make room for it now."""
    if any(held.name == adapter for engine in engines for held in engine.held):
        return None
    roomy = [engine for engine in engines if engine.slots is None or len(engine.held) < engine.slots]
    if roomy:
        return Load(min(roomy, key=lambda engine: engine.load).name)
    movable = [(engine, held) for engine in engines for held in engine.held if not held.moving]
    if not movable:
        return None
    engine, last = min(movable, key=lambda each: (each[1].requests > 0, each[1].used, each[0].load))
    return Load(engine.name, last.name)

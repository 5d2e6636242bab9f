"""A launched engine as decisions see it, and what can be decided for it.

Rules:
- Everything here is a value. Times are seconds of one clock, whichever it is.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.residency.memory import Amounts
from gateway.residency.state import EngineState


@dataclass(frozen=True, slots=True)
class Terms:
    """What the config says about when an engine runs."""

    on_demand: bool = False
    """Whether it starts when somebody asks for it; else it always runs."""
    idle: float | None = None
    """Seconds without a request after which it stops; None: it never stops for that."""
    priority: int = 0
    """How much more than others it is worth: engines of a lower one make room first."""
    pin: bool = False
    """Whether it stays, once it runs, whoever needs its room."""
    finish_load: bool = False
    """Whether a start that nobody waits for any more goes on."""
    rivals: frozenset[str] = frozenset()
    """Names of the engines that must not run beside it."""


class Place(NamedTuple):
    """Some GPUs on which an engine may run."""

    gpus: tuple[int, ...]
    """Their numbers."""
    need: Amounts
    """What it takes there."""


@dataclass(frozen=True, slots=True)
class Resident:
    """One engine at one moment."""

    name: str
    terms: Terms
    state: EngineState = EngineState.STOPPED
    need: Amounts | None = field(default_factory=dict)
    """What it takes while it runs; None where nobody knows."""
    places: tuple[Place, ...] = ()
    """The GPUs it may be started on, where that is to be decided; none where `need` says it."""
    asleep: Amounts | None = None
    """What it keeps while it sleeps; None where it cannot."""
    from_sleep: bool = False
    """Whether it slept when it began to stop, for one that is about to."""
    to_sleep: bool = False
    """Whether it is about to sleep, for one that takes no new requests."""
    busy: bool = False
    """Whether requests run there."""
    waiting: int = 0
    """Requests that wait for it."""
    wanted_since: float | None = None
    """Since when somebody waits for it without a break; None where nobody does, or its start has failed since."""
    used_at: float = 0.0
    """When it was last in use, or became ready."""
    ready_at: float = 0.0
    """When it last became ready."""
    load_seconds: float = 0.0
    """How long its last start took."""
    keep: float | None = None
    """Seconds without a request after which it stops, as the last request that named any said, instead of what the
    config says; infinite: it never stops for that. None: no request has said anything since its start."""
    unload: bool = False
    """Whether a client has said that it is to stop as soon as the requests under way have ended."""
    halted: bool = False
    """Whether an operator has stopped it, and nobody may start it but an operator."""

    @property
    def wanted(self) -> bool:
        """Whether it is to run and does not: somebody waits for it, or the config says so."""
        if self.halted:
            return False
        return self.wanted_since is not None if self.terms.on_demand else self.state is not EngineState.FAILED

    @property
    def stays(self) -> float | None:
        """Seconds without a request after which it stops; None: it never stops for that."""
        if self.keep is None:
            return self.terms.idle
        return None if self.keep == math.inf else self.keep

    def idle(self) -> bool:
        """Tell whether nobody uses it and nobody waits for it."""
        return not self.busy and not self.waiting


class Reason(enum.StrEnum):
    """Why an engine is stopped, or put to sleep."""

    IDLE = "idle"
    """Nobody has used it for as long as its `idle` says."""
    ROOM = "room"
    """Another engine needs its memory, or must not run beside it."""
    UNWANTED = "unwanted"
    """Those who waited for its start have all left."""
    UNLOADED = "unloaded"
    """A client has said so."""
    ORDERED = "ordered"
    """An operator has said so."""


class Start(NamedTuple):
    """Start an engine that is stopped."""

    name: str
    gpus: tuple[int, ...] | None = None
    """The GPUs it is to use, where that was to be decided."""


class Wake(NamedTuple):
    """Wake an engine that sleeps."""

    name: str


class Stop(NamedTuple):
    """Stop an engine once its requests have ended; no new ones go there from now on."""

    name: str
    reason: Reason
    for_: str = ""
    """The engine that needs the room."""


class Sleep(NamedTuple):
    """Have an engine sleep once its requests have ended; no new ones go there from now on."""

    name: str
    reason: Reason
    for_: str = ""


class Refuse(NamedTuple):
    """Tell those who wait for an engine that it cannot run, and why."""

    name: str
    why: str
    for_good: bool = False
    """Whether that has nothing to do with how much memory there is just now."""


Action = Start | Wake | Stop | Sleep | Refuse


class Decision(NamedTuple):
    """What is to be done now, and when to look again at the latest."""

    actions: tuple[Action, ...]
    again: float | None
    """The clock's time at which something is due although nothing happens; None: nothing is."""

"""One launched engine as the keeper knows it: its terms, its memory, and what is remembered from one look to the next.

Rules:
- What is remembered outlives a change of the config as long as the engine's supervisor does.
"""

from __future__ import annotations

import math
from typing import Any

from backends.facts.residing import Residing
from gateway.fleet.needs import Needs
from gateway.fleet.supervise import Supervisor
from gateway.residency.memory import Amounts, most
from gateway.residency.resident import Resident, Terms
from gateway.residency.state import EngineState


class Kept:
    """One engine, and what is remembered of it."""

    def __init__(self, supervisor: Supervisor, terms: Terms, needs: Needs, before: Kept | None) -> None:
        """`before` is what was remembered of the backend of this name until the config changed."""
        self.supervisor = supervisor
        self.terms = terms
        self.needs = needs
        self.keep: float | None = None if before is None else before.keep
        """How long a request has said that it is to stay; see `Resident.keep`."""
        self.unload: bool = before is not None and before.unload
        if before is not None and before.supervisor is not supervisor:
            before = None
        self._former: Needs | None = None
        """The memory of the process that still runs, where that was started with other options than those of now."""
        if before is not None and supervisor.outdated:
            self._former = before._former or before.needs
        self.times: int = 0 if before is None else before.times
        """How often the backend had gone from no request to one when that was last looked at."""
        self.reached: bool = False
        """Whether a request was there before this process saw that it is ready: each process looks for itself."""
        self.doubted_at: float | None = None
        """The machine's last look when the engine did not fit; None where it has fitted since."""

    @property
    def of_process(self) -> Needs:
        """The memory of the process that runs."""
        if self._former is not None and not self.supervisor.outdated:
            self._former = None
        return self._former or self.needs

    def amounts(self) -> Amounts | None:
        """Return what it takes while it runs, or will: the more of both while it is being replaced."""
        now, runs = self.needs.amounts(), self.of_process
        if runs is self.needs or now is None or (taken := runs.amounts()) is None:
            return now
        return most(now, taken)

    @property
    def state(self) -> EngineState:
        """Where it is in its life, as decisions see it."""
        state, runs = self.supervisor.life.state, self.supervisor.runs
        if not self.supervisor.settled:
            return EngineState.DRAINING
        if state is not EngineState.FAILED or self.terms.on_demand is not runs:
            return state
        # It has run under other terms until now: as one that comes back by itself, or as one that does not.
        return EngineState.DRAINING if runs else EngineState.STOPPED

    def leaving(self, place: int) -> Resident:
        """Return it as decisions see it when its backend has left the config: it has its memory until it has ended."""
        name = f"{self.needs.name} ({place})"
        return Resident(name, Terms(on_demand=True), EngineState.DRAINING, self.amounts())


def terms_of(launch: Any, default_idle: float, exclusive: frozenset[str]) -> Terms:
    """Return when an engine runs, as the config says."""
    if not isinstance(launch, Residing):
        return Terms(rivals=exclusive)
    idle = default_idle if launch.idle is None else launch.idle
    return Terms(
        on_demand=launch.start == "on_demand",
        idle=None if idle == math.inf else idle,
        priority=launch.priority,
        pin=launch.pin,
        finish_load=launch.finish_load,
        rivals=exclusive | frozenset(launch.exclusive_with),
    )

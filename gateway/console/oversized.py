"""Launched engines that alone need more memory than this machine has for them, which `gateway check` tells.

Rules:
- What an engine needs, and what there is, is found out as the running gateway does it (`gateway.fleet.needs`,
  `gateway.fleet.room`), but for what was measured. It is compared with all that engines may ever take, not with what
  is free now.
- It is a note and no mistake: the file may be for another machine. Of a GPU that this one has not, nothing is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.base import LaunchOptions
from gateway.config.schema import Config
from gateway.config.server import Engines
from gateway.fleet.needs import Needs
from gateway.fleet.room import Room
from gateway.machine.machine import Machine
from gateway.residency.memory import Shortage, shortages
from gateway.telemetry.metrics import Metrics


async def oversized(config: Config, machine: Machine | None = None) -> list[str]:
    """Return a note for each engine that cannot run here whatever else does; `machine` None: this one."""
    launched = {
        name: backend.launch for name, backend in config.backends.items() if backend.launch is not None
    }
    if not launched:
        return []
    machine = machine or Machine(dict, Metrics("").machine)
    await machine.look()
    return await _notes(launched, config.server.engines, machine)


async def _notes(launched: Mapping[str, LaunchOptions], engines: Engines, machine: Machine) -> list[str]:
    most = Room(machine).limits(engines)
    notes = []
    for name, launch in launched.items():
        needs = Needs(name, launch)
        await needs.reckon(machine)
        tried = [place.need for place in needs.places()] or [needs.amounts() or {}]
        missing = [shortages(need, most) for need in tried]
        if all(missing):
            reasons = "; ".join(f"{each} for engines{_how(needs, each)}" for each in missing[0])
            notes.append(f"backend '{name}' is larger than this machine: {reasons}")
    return notes


def _how(needs: Needs, shortage: Shortage) -> str:
    """Return how a need came about, in parentheses."""
    how = needs.explained(shortage.device)
    return f" ({how})" if how else ""

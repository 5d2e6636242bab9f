"""What memory there is for all launched engines.

Rules:
- What has never been measured has no limit. What other programs hold is nobody's to give away.
- What is not told any more counts as it was told last: a driver that does not answer for a while gives nothing away.
- What engines hold of RAM counts once: pages of mapped weights are among what the machine calls available already.
- Where the driver does not tell which process holds a GPU's memory, as in most containers and where a GPU is divided,
  an engine that runs is taken to hold what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.server import Engines
from gateway.machine.gpu import Gpu
from gateway.machine.machine import Machine, Use
from gateway.residency.memory import ENGINES, RAM, Amounts


class Room:
    """The memory of this machine."""

    def __init__(self, machine: Machine | None = None) -> None:
        """`machine` tells of it; None: nobody does, and memory has no limit."""
        self.machine = machine
        self._totals: dict[str, int] = {}
        self._there: dict[str, int] = {}
        """What other programs leave of each device."""
        self._gone: frozenset[str] = frozenset()

    def limits(self, engines: Engines) -> dict[str, int]:
        """Return what all launched engines may take together where no other program takes anything."""
        found = {} if engines.at_once is None else {ENGINES: engines.at_once}
        if self.machine is None:
            return found
        total = self.machine.host().memory_total
        if total is not None:
            self._totals[RAM] = total
        for gpu in self.machine.gpus():
            if gpu.memory_total is not None:
                self._totals[gpu.id] = gpu.memory_total
        share = engines.memory
        for device, total in self._totals.items():
            found[device] = _limit(share.ram if device == RAM else share.gpu, total)
        return found

    def budget(self, engines: Engines, held: Mapping[str, Amounts]) -> Amounts:
        """Return what all launched engines may take together now.

        `held` is what engines that run are known to need, by the names of their backends, for those GPUs of which the
        driver does not tell whose the memory is.
        """
        found = self.limits(engines)
        if self.machine is None:
            return found
        available, uses = self.machine.host().memory_available, self.machine.uses()
        if available is not None:
            self._there[RAM] = available + sum(use.memory - use.cached for use in uses.values())
        for gpu in self.machine.gpus():
            if gpu.memory_total is not None:
                others = (gpu.memory_used or 0) - _ours(gpu, uses, held)
                self._there[gpu.id] = gpu.memory_total - max(0, others)
        return {device: min(amount, self._there.get(device, amount)) for device, amount in found.items()}

    def gone(self) -> frozenset[str]:
        """Return the GPUs that were told no longer while others of the same vendor were, and not since."""
        told = set() if self.machine is None else {gpu.id for gpu in self.machine.gpus()}
        vendors = {_vendor(device) for device in told}
        lost = {device for device in self._totals if _vendor(device) in vendors}
        self._gone = (self._gone | lost) - told
        return self._gone


def _vendor(device: str) -> str:
    return device.rstrip("0123456789")


def _ours(gpu: Gpu, uses: Mapping[str, Use], held: Mapping[str, Amounts]) -> int:
    """Return how much of a GPU's memory launched engines hold."""
    total = 0
    for name, use in uses.items():
        told = use.gpus.get(gpu.id)
        if told is None and not any(use.gpus.values()):
            told = held.get(name, {}).get(gpu.id)
        total += told or 0
    return total


def _limit(setting: float, total: int) -> int:
    """Return the bytes that a size, or a share of all there is, means."""
    return round(setting * total) if isinstance(setting, float) else setting

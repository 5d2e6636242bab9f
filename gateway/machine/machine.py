"""The machine as the gateway knows it: read every few seconds, in the background, and shown in the metrics.

Rules:
- Nothing is read while somebody waits for it: whoever asks gets what was read last.
- What could not be read this time is told no longer. What hangs is left alone until it returns; the rest goes on.
- A GPU's user is a backend where one of its processes was launched for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gateway.machine import processes
from gateway.machine.amd import Amd
from gateway.machine.apple import Apple
from gateway.machine.aside import Aside
from gateway.machine.gpu import Gpu, GpuSource
from gateway.machine.host import Host, HostSource
from gateway.machine.nvidia import Nvidia
from gateway.machine.processes import CpuTime, Table
from gateway.telemetry.of_machine import MachineMetrics, fill

log = logging.getLogger("gateway.machine")

INTERVAL = 5.0
"""Seconds between two looks: no scraper that is in use looks more often."""
PATIENCE = 10.0
"""Seconds until what has not been read is given up: a driver may have to wake its GPUs, which takes several."""

Launched = Mapping[str, int | None]
"""The engines that this process launches: the names of their backends, and their process ids while they run."""


class Use(NamedTuple):
    """What a launched engine and all it has started use of the machine."""

    memory: int
    """Resident bytes."""
    cpu: float
    """Seconds of processor time over all starts."""
    gpus: Mapping[str, int | None]
    """The ids of the GPUs that it uses, and the bytes of memory it holds there, where the driver tells."""
    cached: int = 0
    """Of its resident bytes, those that the machine counts as available all the same: pages of files."""


def gpu_sources() -> tuple[tuple[str, GpuSource], ...]:
    """Return the readers of all vendors' GPUs, each with its words for the log."""
    return ("NVIDIA's GPUs (NVML)", Nvidia()), ("AMD's GPUs (/sys)", Amd()), ("Apple's GPUs (ioreg)", Apple())


class Machine:
    """This machine, as it was at the last look."""

    def __init__(
        self,
        launched: Callable[[], Launched],
        metrics: MachineMetrics,
        gpus: Sequence[tuple[str, GpuSource]] | None = None,
        host: Callable[[], Host] | None = None,
        table: Callable[[], Table] = processes.table,
    ) -> None:
        """Read nothing yet.

        `launched` tells the engines whose use is of interest. `gpus`, `host` and `table` read; None: this machine.
        """
        self._launched = launched
        self._metrics = metrics
        sources = gpu_sources() if gpus is None else gpus
        self._gpu_reads = [Aside(what, source.read) for what, source in sources]
        self._host_read = Aside("the machine's memory and processors", host or HostSource().read)
        self._table_read = Aside("the table of processes", table)
        self._cpu: dict[str, CpuTime] = {}
        self._gpus: tuple[Gpu, ...] = ()
        self._host = Host()
        self._uses: dict[str, Use] = {}
        self._looking = asyncio.Lock()
        """Held during a look: two at a time would find each other's calls running, and the older might be told last."""
        self.looked = asyncio.Event()
        """Set once everything has been read, or given up, for the first time."""
        self.looked_at: float = float("-inf")
        """The event loop's time at which the last look began."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs."""
        return self._gpus

    def host(self) -> Host:
        """Return the memory and the processors."""
        return self._host

    def uses(self) -> Mapping[str, Use]:
        """Return what each launched engine uses, by the name of its backend; engines that do not run are left out."""
        return self._uses

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        told = False
        while True:
            try:
                await self.look()
            except Exception:
                if not told:
                    log.exception("the machine cannot be looked at, which is a bug")
                told = True
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Read everything once, and show it. A look that is under way ends first."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        began = asyncio.get_running_loop().time()
        roots = {name: pid for name, pid in self._launched().items() if pid is not None}
        gpus, host, table = await asyncio.gather(
            asyncio.gather(*(read.read(PATIENCE) for read in self._gpu_reads)),
            self._host_read.read(PATIENCE),
            self._table_read.read(PATIENCE) if roots else _nothing(),
        )
        self._gpus = tuple(gpu for found in gpus for gpu in found or ())
        self._host = host or Host()
        self._uses = self._used(roots, table or {})
        self.looked_at = began
        self.looked.set()
        self._show()

    def _used(self, roots: Mapping[str, int], table: Table) -> dict[str, Use]:
        uses: dict[str, Use] = {}
        for name, tree in processes.trees(table, roots, os.getpid()).items():
            if tree:
                cpu = self._cpu.setdefault(name, CpuTime())
                cpu.add(roots[name], sum(table[pid].cpu for pid in tree))
                memory = sum(table[pid].memory for pid in tree)
                cached = sum(table[pid].cached for pid in tree)
                uses[name] = Use(memory, cpu.seconds, _held(self._gpus, tree), cached)
        return uses

    def _show(self) -> None:
        metrics, gpus, host = self._metrics, self._gpus, self._host
        fill(metrics.gpu_utilization, {(gpu.id, gpu.name): gpu.utilization for gpu in gpus})
        fill(metrics.gpu_memory_used, {(gpu.id, gpu.name): gpu.memory_used for gpu in gpus})
        fill(metrics.gpu_memory_total, {(gpu.id, gpu.name): gpu.memory_total for gpu in gpus})
        fill(metrics.gpu_power, {(gpu.id, gpu.name): gpu.power for gpu in gpus})
        fill(metrics.gpu_power_limit, {(gpu.id, gpu.name): gpu.power_limit for gpu in gpus})
        fill(metrics.gpu_temperature, {(gpu.id, gpu.name): gpu.temperature for gpu in gpus})
        held: dict[tuple[str, ...], float | None] = {
            (gpu, name): memory for name, use in self._uses.items() for gpu, memory in use.gpus.items()
        }
        fill(metrics.gpu_backend, dict.fromkeys(held, 1.0))
        fill(metrics.gpu_backend_memory, held)
        fill(metrics.host_memory_total, {(): host.memory_total})
        fill(metrics.host_memory_available, {(): host.memory_available})
        fill(metrics.host_cpu, {(): host.cpu})
        fill(metrics.engine_memory, {(name,): use.memory for name, use in self._uses.items()})
        # A count stays while its engine does not run, and goes when its backend leaves.
        launched = self._launched()
        self._cpu = {name: cpu for name, cpu in self._cpu.items() if name in launched}
        fill(metrics.engine_cpu, {(name,): cpu.seconds for name, cpu in self._cpu.items()})


async def _nothing() -> Table:
    return {}


def _held(gpus: Sequence[Gpu], tree: frozenset[int]) -> dict[str, int | None]:
    """Return which GPUs these processes use, and the memory they hold there, if that is told of each of them."""
    held: dict[str, int | None] = {}
    for gpu in gpus:
        told = [user.memory for user in gpu.users if user.pid in tree]
        if told:
            known = [memory for memory in told if memory is not None]
            held[gpu.id] = sum(known) if len(known) == len(told) else None
    return held

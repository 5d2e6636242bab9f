"""The metrics of the machine: its GPUs, its memory and processors, and what launched engines use.

Rules:
- One process sets them, the one that launches engines: a sum over several would mean nothing.
- What is not told is absent, never a zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.telemetry.cells import Value
from gateway.telemetry.families import Family
from gateway.telemetry.registry import Families, Topic


class MachineMetrics:
    """GPUs, host and launched engines."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Machine")
        self._add_gpus(add)
        self.host_memory_total = add.gauge(
            "gateway_host_memory_total_bytes", "The machine's memory.", across="master"
        )
        self.host_memory_available = add.gauge(
            "gateway_host_memory_available_bytes",
            "Memory that programs could still get without swapping.",
            across="master",
        )
        self.host_cpu = add.gauge(
            "gateway_host_cpu_ratio",
            "The share of all processors' time in which they worked of late.",
            across="master",
        )
        self.engine_memory = add.gauge(
            "gateway_engine_memory_bytes",
            "Resident memory of a launched engine and all it has started; pages that these share count for each.",
            ("backend",),
            across="master",
        )
        self.engine_cpu = add.counter(
            "gateway_engine_cpu_seconds",
            "Processor time of a launched engine and all it has started, over all its starts.",
            ("backend",),
        )

    def _add_gpus(self, add: Topic) -> None:
        gpu, user = ("gpu", "name"), ("gpu", "backend")
        self.gpu_utilization = add.gauge(
            "gateway_gpu_utilization_ratio",
            "The share of the last moments in which the GPU computed.",
            gpu,
            across="master",
        )
        self.gpu_memory_used = add.gauge(
            "gateway_gpu_memory_used_bytes", "The GPU's memory in use, by whomever.", gpu, across="master"
        )
        self.gpu_memory_total = add.gauge(
            "gateway_gpu_memory_total_bytes",
            "The GPU's memory; absent where it has none of its own.",
            gpu,
            across="master",
        )
        self.gpu_power = add.gauge(
            "gateway_gpu_power_watts", "The power that the GPU draws.", gpu, across="master"
        )
        self.gpu_power_limit = add.gauge(
            "gateway_gpu_power_limit_watts", "The power that the GPU may draw.", gpu, across="master"
        )
        self.gpu_temperature = add.gauge(
            "gateway_gpu_temperature_celsius", "The GPU's temperature.", gpu, across="master"
        )
        self.gpu_backend = add.gauge(
            "gateway_gpu_backend",
            "1 while the launched engine of the backend uses the GPU.",
            user,
            across="master",
        )
        self.gpu_backend_memory = add.gauge(
            "gateway_gpu_backend_memory_bytes",
            "The GPU's memory that the launched engine of the backend holds, where that is told.",
            user,
            across="master",
        )


def fill(family: Family[Value], values: Mapping[tuple[str, ...], float | None]) -> None:
    """Have a family show these values, by their labels, and no others; None is not shown."""
    told = {labels: value for labels, value in values.items() if value is not None}
    for labels in family.cells.keys() - told.keys():
        family.forget(*labels)
    for labels, value in told.items():
        family.cell(*labels).value = value

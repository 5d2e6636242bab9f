"""The GPUs in `gateway status`: a table out of the metrics page.

Rules:
- What a GPU does not tell is `-`. Without a GPU there is no table.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.console.rates import Page

UTILIZATION = "gateway_gpu_utilization_ratio"
USED, TOTAL = "gateway_gpu_memory_used_bytes", "gateway_gpu_memory_total_bytes"
POWER, LIMIT = "gateway_gpu_power_watts", "gateway_gpu_power_limit_watts"
TEMPERATURE = "gateway_gpu_temperature_celsius"
BACKEND = "gateway_gpu_backend"
NAMES = frozenset({UTILIZATION, USED, TOTAL, POWER, LIMIT, TEMPERATURE, BACKEND})
"""The metrics that are read."""

HEAD = ("GPU", "NAME", "USE", "MEMORY", "POWER", "TEMPERATURE", "BACKENDS")
_GIB = 1 << 30


def gpu_rows(page: Page) -> list[tuple[str, ...]]:
    """Return a row for each GPU that the page tells of, under `HEAD`."""
    values = {
        name: {sample.labels["gpu"]: sample.value for sample in page.get(name, ())}
        for name in NAMES - {BACKEND}
    }
    names = {
        sample.labels["gpu"]: sample.labels["name"]
        for name in (USED, UTILIZATION, POWER, LIMIT, TEMPERATURE, TOTAL)
        for sample in page.get(name, ())
    }
    users: dict[str, list[str]] = {}
    for sample in page.get(BACKEND, ()):
        users.setdefault(sample.labels["gpu"], []).append(sample.labels["backend"])
    return [
        (
            gpu,
            name,
            _told(values[UTILIZATION], gpu, 100, "%"),
            _of(values[USED], values[TOTAL], gpu, 1 / _GIB, " GiB"),
            _of(values[POWER], values[LIMIT], gpu, 1, " W"),
            _told(values[TEMPERATURE], gpu, 1, " °C"),
            ", ".join(sorted(users.get(gpu, ()))) or "-",
        )
        for gpu, name in sorted(names.items())
    ]


def _told(values: Mapping[str, float], gpu: str, factor: float, unit: str) -> str:
    return f"{values[gpu] * factor:.0f}{unit}" if gpu in values else "-"


def _of(values: Mapping[str, float], most: Mapping[str, float], gpu: str, factor: float, unit: str) -> str:
    """Return a value and the largest it may have, as far as they are told."""
    if gpu not in values:
        return "-"
    limit = f" of {most[gpu] * factor:.0f}" if gpu in most else ""
    return f"{values[gpu] * factor:.0f}{limit}{unit}"

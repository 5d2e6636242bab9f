"""Apple's GPUs, by the statistics that their driver puts into the I/O registry.

Rules:
- The registry tells use and memory to everybody; power and temperature only to root, so these are None.
- There is no memory of its own on these machines: what is in use is the system's, and no total is told.

Facts: `man ioreg`; the entries of the class IOAccelerator, one value a line, `PerformanceStatistics` a map in one line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

from gateway.machine.gpu import Gpu

COMMAND = ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
TIMEOUT = 5.0
"""Seconds that the command may take."""
_ENTRY = re.compile(r"^\+-o ", re.MULTILINE)
_STATISTICS = re.compile(r'^[ |]*"PerformanceStatistics" = \{(.*)\}\s*$', re.MULTILINE)
_MODEL = re.compile(r'^[ |]*"model" = <?"([^"]+)">?', re.MULTILINE)
_VALUE = re.compile(r'"([^"]+)"=(\d+)')


def run() -> str:
    """Return what the registry says of the GPUs; nothing where there is none."""
    if sys.platform != "darwin":
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            COMMAND, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


class Apple:
    """The GPUs in the I/O registry."""

    def __init__(self, ask: Callable[[], str] = run) -> None:
        """Read what `ask` returns: the output of `ioreg`."""
        self._ask = ask

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs there are now."""
        return parsed(self._ask())


def parsed(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in the output of `ioreg`."""
    gpus: list[Gpu] = []
    for entry in _ENTRY.split(text)[1:]:
        statistics = _STATISTICS.search(entry)
        if statistics is None:
            continue
        values = {name: int(number) for name, number in _VALUE.findall(statistics[1])}
        model = _MODEL.search(entry)
        busy = values.get("Device Utilization %")
        gpus.append(
            Gpu(
                f"apple{len(gpus)}",
                model[1] if model is not None else "Apple GPU",
                utilization=busy / 100 if busy is not None and busy <= 100 else None,
                memory_used=values.get("In use system memory"),
            )
        )
    return tuple(gpus)

"""The memory of this machine and the use of its processors.

Rules:
- These are the machine's numbers, also inside a container that may use less.
- Elsewhere than on Linux there is the memory alone, and only where the system tells it.

Facts: `man 5 proc_meminfo`, `man 5 proc_stat`; `man vm_stat` of macOS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

VM_STAT = ("/usr/bin/vm_stat",)
TIMEOUT = 5.0
"""Seconds that `vm_stat` may take."""
_IDLE = (3, 4)
"""Places of `idle` and `iowait` in the line `cpu` of /proc/stat."""
_TIMES = 8
"""How many times of that line are counted: those behind them are parts of the first two."""


class Host(NamedTuple):
    """The machine at one moment; None for what is not told."""

    memory_total: int | None = None
    memory_available: int | None = None
    """Bytes that programs could still get without swapping."""
    cpu: float | None = None
    """The share of all processors' time since the last look in which they worked."""


class HostSource:
    """Reads the state of the machine."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Read below `proc`."""
        self._proc = proc
        self._before: tuple[int, int] | None = None

    def read(self) -> Host:
        """Return the state since the last look."""
        if sys.platform != "linux":
            return from_vm_stat(_run(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        memory = meminfo(_text(self._proc / "meminfo"))
        before, self._before = self._before, cpu_times(_text(self._proc / "stat"))
        return Host(memory.get("MemTotal"), memory.get("MemAvailable"), _share(before, self._before))


def meminfo(text: str) -> dict[str, int]:
    """Return the sizes in /proc/meminfo, in bytes."""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def cpu_times(text: str) -> tuple[int, int] | None:
    """Return how long all processors together have worked, and been there, since the start, in ticks."""
    found = re.match(r"cpu +([\d ]+)\n", text)
    if found is None:
        return None
    times = [int(number) for number in found[1].split()][:_TIMES]
    total = sum(times)
    return total - sum(times[place] for place in _IDLE if place < len(times)), total


def _share(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    if before is None or now is None or now[1] <= before[1]:
        return None
    # The kernel's `iowait` may fall.
    return min(1.0, max(0.0, (now[0] - before[0]) / (now[1] - before[1])))


def from_vm_stat(text: str, total: int) -> Host:
    """Return the memory as macOS tells it: available are free pages, and those that nobody has used of late."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = {
        name: int(count) for name, count in re.findall(r"^Pages ([\w ]+): +(\d+)\.$", text, re.MULTILINE)
    }
    if page is None or "free" not in pages:
        return Host(total)
    left = pages["free"] + pages.get("speculative", 0) + pages.get("inactive", 0)
    return Host(total, left * int(page[1]))


def _run() -> str:
    try:
        done = subprocess.run(  # noqa: S603
            VM_STAT, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

"""Read the CPU time, memory and descriptors of a process and all its children from /proc. Linux only.

Rules:
- CPU is user plus system time, including that of children that have ended. The kernel counts it in ticks of 10 ms.
- Memory is resident memory, added up over the processes; shared pages are counted for each.
- A process that ends while it is read counts as nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")

# Indexes in /proc/PID/stat behind the command's closing bracket, see proc(5).
_PARENT, _USER, _SYSTEM, _CHILD_USER, _CHILD_SYSTEM, _RESIDENT = 1, 11, 12, 13, 14, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used so far."""

    cpu: float
    """Seconds."""
    rss: int
    """Bytes."""
    processes: int


def usage(pid: int) -> Usage:
    """Return CPU and memory of `pid` and its descendants; all zero for pid 0."""
    if not pid:
        return Usage(0.0, 0, 0)
    table = dict(_table())
    tree = [fields for number in _tree(pid, table) if (fields := table.get(number))]
    ticks = sum(
        int(fields[index]) for fields in tree for index in (_USER, _SYSTEM, _CHILD_USER, _CHILD_SYSTEM)
    )
    rss = sum(int(fields[_RESIDENT]) for fields in tree) * _PAGE
    return Usage(ticks / _TICK, rss, len(tree))


def resident(pid: int) -> int:
    """Return the resident bytes of one process, 0 for one that has ended."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def descriptors(pid: int) -> int:
    """Count the open file descriptors of `pid` and its descendants."""
    count = 0
    for number in _tree(pid, dict(_table())):
        with contextlib.suppress(OSError):
            count += len(os.listdir(_PROC / str(number) / "fd"))
    return count


def _table() -> Iterator[tuple[int, list[str]]]:
    """Yield the id of every process with the fields of its stat file, from the state on."""
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = (_PROC / entry / "stat").read_text()
                yield int(entry), text[text.rindex(")") + 2 :].split()


def _tree(pid: int, table: dict[int, list[str]]) -> list[int]:
    children: dict[int, list[int]] = {}
    for number, fields in table.items():
        children.setdefault(int(fields[_PARENT]), []).append(number)
    found = [pid]
    for number in found:
        found += children.get(number, [])
    return found

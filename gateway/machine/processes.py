"""The processes of this machine: which belong to a launched engine, and what they use.

Rules:
- One pass over the process table serves all engines. It costs a few microseconds for each process there is.
- To an engine belongs what it has forked, however deep. Its warden (`gateway.fleet.warden`) adopts what loses its
  parent, so on Linux all below the warden is the engine's.
- CPU time counts those who have ended and were waited for. It never falls, also when somebody ends unseen.
- Memory is what is resident. Pages that several processes of an engine share are counted for each.
- Pages of mapped files (the weights of most models) are resident, and yet the kernel counts them among what is
  available, since it can drop them and read them again; but not those that are locked. How many these are is told
  apart, on Linux and of processes that are large enough for it to matter.

Facts: `man 5 proc_pid_stat`, `man 5 proc_pid_status`; `si_mem_available` in the kernel's `mm/show_mem.c`; `man ps` of
macOS. Linux 6.18 with a file of 1 GiB mapped and read: MemFree fell by 1114 MiB, MemAvailable by 89; once the pages
were locked, by 1122.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PS = ("/bin/ps", "-axo", "pid=,ppid=,rss=,time=")
TIMEOUT = 5.0
"""Seconds that `ps` may take."""
LARGE = 16 << 20
"""Bytes from which on it is asked how much of a process's memory is of files, which takes as long as all the rest."""
_PARENT, _TIMES, _RESIDENT = 1, slice(11, 15), 21
"""Places in a line of /proc/PID/stat behind the name of the program."""
_STATUS = re.compile(rb"^(RssFile|VmLck):\s*(\d+) kB$", re.MULTILINE)
_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(?:(\d+)-)?([\d:.]+)\s*")


class Entry(NamedTuple):
    """One process."""

    parent: int
    memory: int
    """Resident bytes."""
    cpu: float
    """Seconds of processor time, its own and those of children that it has waited for."""
    cached: int = 0
    """Of the resident bytes, those of files, which are among the machine's available memory."""


Table = dict[int, Entry]
"""Processes by their ids."""


def table() -> Table:
    """Return every process there is, as far as this one may see them."""
    return from_proc(Path("/proc")) if sys.platform == "linux" else from_ps(_ps())


def from_proc(proc: Path) -> Table:
    """Return the processes in Linux's /proc."""
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    found: Table = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open(f"{proc}/{name}/stat", "rb") as file:
                # The program's name stands in parentheses and may hold anything: fields follow the last one.
                fields = file.read().rpartition(b")")[2].split()
            cpu = sum(map(int, fields[_TIMES])) / tick
            memory = int(fields[_RESIDENT]) * page
            cached = _cached(f"{proc}/{name}/status") if memory >= LARGE else 0
            found[int(name)] = Entry(int(fields[_PARENT]), memory, cpu, cached)
        except (OSError, ValueError, IndexError):
            continue
    return found


def _cached(status: str) -> int:
    """Return how many resident bytes of a process are of files and not locked. Raise OSError where it has ended."""
    with open(status, "rb") as file:
        told = {name: int(kib) * 1024 for name, kib in _STATUS.findall(file.read())}
    return max(0, told.get(b"RssFile", 0) - told.get(b"VmLck", 0))


def from_ps(text: str) -> Table:
    """Return the processes in the output of `ps`, whose times are `minutes:seconds` or longer."""
    found: Table = {}
    for line in text.splitlines():
        parts = _LINE.fullmatch(line)
        if parts is None:
            continue
        pid, parent, kib, days, time = parts.groups()
        seconds = 0.0
        for part in time.split(":"):
            seconds = seconds * 60 + float(part)
        found[int(pid)] = Entry(int(parent), int(kib) * 1024, seconds + int(days or 0) * 86400)
    return found


def _ps() -> str:
    try:
        done = subprocess.run(  # noqa: S603
            PS, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def trees(table: Table, roots: Mapping[str, int], own: int) -> dict[str, frozenset[int]]:
    """Return the processes of each engine; of one that does not run, none.

    `roots` are the process ids of the engines by the names of their backends, `own` is the process that launched them.
    """
    children: dict[int, list[int]] = {}
    for pid, entry in table.items():
        children.setdefault(entry.parent, []).append(pid)
    found: dict[str, frozenset[int]] = {}
    for name, root in roots.items():
        if root not in table:
            found[name] = frozenset()
            continue
        warden = table[root].parent
        adopted = warden in table and table[warden].parent == own
        tree: set[int] = set()
        queue = list(children[warden]) if adopted else [root]
        while queue:
            pid = queue.pop()
            if pid not in tree:
                tree.add(pid)
                queue += children.get(pid, ())
        found[name] = frozenset(tree)
    return found


class CpuTime:
    """The processor time of one backend's engine, over all its starts."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds = 0.0
        self._root = 0
        self._last = 0.0

    def add(self, root: int, total: float) -> None:
        """Note that the engine with the process id `root` and all it forked have used `total` seconds so far."""
        if root != self._root:
            self._root, self._last = root, 0.0
        # A process that ended and that nobody in the tree waited for takes its time with it.
        self.seconds += max(0.0, total - self._last)
        self._last = total

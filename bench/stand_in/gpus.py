"""What made-up engines hold of made-up GPUs.

Rules:
- An engine writes what it holds, and on which GPUs, when it begins; it holds that as long as its process lives.
- Whoever asks looks at the processes themselves: one that was killed holds nothing from that moment on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

GIB = 1 << 30
COUNT = 2
"""How many GPUs there are."""
TOTAL = 24 * GIB
"""The memory of each."""
FOLDER = "STAND_IN_GPUS"
"""The environment variable that names the folder."""


class Held(NamedTuple):
    """What an engine holds."""

    pid: int
    gpus: tuple[int, ...]
    memory: int
    """Bytes of each."""


def take(folder: Path, gpus: Sequence[int], memory: int) -> None:
    """Have this process hold memory of some GPUs until it ends."""
    part = folder / f"{os.getpid()}.part"
    part.write_text(f"{memory} {' '.join(map(str, gpus))}")
    part.rename(part.with_suffix(".held"))


def held(folder: Path) -> list[Held]:
    """Return what the engines hold that live."""
    found = []
    for file in folder.glob("*.held"):
        memory, *gpus = map(int, file.read_text().split())
        if _lives(int(file.stem), folder):
            found.append(Held(int(file.stem), tuple(gpus), memory))
    return found


def used(folder: Path) -> list[int]:
    """Return the bytes that are in use of each GPU."""
    total = [0] * COUNT
    for each in held(folder):
        for gpu in each.gpus:
            total[gpu] += each.memory
    return total


def _lives(pid: int, folder: Path) -> bool:
    """Tell whether a process lives and is one of the engines, whose command line names the folder."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False

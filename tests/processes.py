"""Looking at processes from outside, for tests that must find none left."""

from collections.abc import Iterator
from pathlib import Path


def _table() -> dict[int, tuple[int, str]]:
    """Process id to parent and command line, without those that have ended."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if state not in "ZX":
                found[int(folder.name)] = (int(parent), command)
    return found


def children(root: int) -> list[tuple[int, str]]:
    """All descendants of a process with their command lines."""
    table = _table()

    def below(parent: int) -> Iterator[tuple[int, str]]:
        for pid, (its_parent, command) in table.items():
            if its_parent == parent:
                yield pid, command
                yield from below(pid)

    return list(below(root))


def alive(pid: int) -> bool:
    """Return whether the process has not ended."""
    return pid in _table()

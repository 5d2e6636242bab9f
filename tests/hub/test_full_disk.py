"""`gateway pull` onto a disk that fills up in the middle of a file: a real one, of a size that a test sets.

Rules:
- The disk is a tmpfs in a mount namespace of its own, which the kernel gives to anybody where it knows user namespaces.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.conftest import MODELS, Shell
from tests.hub.server import COMMIT, Store, sha256

GGUF = (MODELS / "demo.gguf").read_bytes()
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = """mount -t tmpfs -o size=300m tmpfs "$1" && echo ready
while read -r size; do mount -o remount,size="$size" "$1" && echo done; done"""
SENT = 2 << 20
PATIENCE = 60.0


class Disk:
    """A disk that only those who are `within` see."""

    def __init__(self, keeper: subprocess.Popen[str], place: Path) -> None:
        self._keeper = keeper
        self.within = ("nsenter", "--user", "--mount", "--preserve-credentials", f"--target={keeper.pid}")
        self.seen = Path(f"/proc/{keeper.pid}/root") / place.relative_to("/")
        """The same folder as others find it."""

    def says(self, word: str) -> bool:
        """Tell whether that is what the keeper of the disk says next."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline().strip() == word

    def resize(self, size: str) -> None:
        assert self._keeper.stdin is not None
        print(size, file=self._keeper.stdin, flush=True)
        assert self.says("done")


@pytest.fixture
def disk(shell: Shell) -> Iterator[Disk]:
    shell.home.mkdir()
    command = (*UNSHARE, "sh", "-c", MOUNT, "sh", str(shell.home))
    try:
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError:
        pytest.skip("this machine has no unshare")
    with keeper:
        disk = Disk(keeper, shell.home)
        if not disk.says("ready"):
            pytest.skip("this machine gives no mount namespaces")
        shell.within = disk.within
        yield disk


def test_a_disk_that_fills_up_in_the_middle_costs_nothing_that_has_come(
    shell: Shell, store: Store, disk: Disk
) -> None:
    blobs = disk.seen / "hub" / "models--org--demo-GGUF" / "blobs"
    part = blobs / f"{sha256(GGUF)}.part"

    def fill() -> None:
        deadline = time.monotonic() + PATIENCE
        while not part.exists() or part.stat().st_size < SENT:
            assert time.monotonic() < deadline, "what was sent arrives"
            time.sleep(0.005)
        disk.resize("3m")

    store.meanwhile = (SENT, fill)
    ran = shell.run("pull", "hf:org/demo-GGUF:Q4_K_M")
    assert ran.status == 1 and not ran.out
    said = [line for line in ran.err.splitlines() if line.startswith("gateway: ")]
    full = f"the disk of {shell.home}/hub/models--org--demo-GGUF/blobs is full"
    assert said == [f"gateway: {full}: 2.0 MiB of 4.9 MiB are here: make room and run it again to go on"]
    assert part.read_bytes() == GGUF[:SENT]

    disk.resize("300m")
    store.asked.clear()
    last = shell.run("pull", "hf:org/demo-GGUF:Q4_K_M")
    assert last.status == 0, last.err
    assert [asked.partition("-")[0] for asked in store.ranges()] == [f"bytes={SENT}"]
    snapshot = disk.seen / "hub" / "models--org--demo-GGUF" / "snapshots" / COMMIT / "demo-Q4_K_M.gguf"
    assert (blobs / sha256(GGUF)).read_bytes() == GGUF and snapshot.is_symlink() and not part.exists()

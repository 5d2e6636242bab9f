"""Which processes belong to an engine, and what they use: tables made up, and the real one of this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.machine.processes import LARGE, CpuTime, Entry, from_proc, from_ps, table, trees

# `man ps` of macOS: rss in KiB; time as minutes, seconds and hundredths.
PS = """    1     0  13328   9:21.07
  501     1   4096   0:03.21
40100   501 102400 123:45.67
40101 40100   2048 1-02:03:04
garbage
"""


def test_a_line_of_proc_is_read_whatever_the_program_is_called(tmp_path: Path) -> None:
    # man 5 proc_pid_stat; a program may call itself anything.
    numbers = [3] * 50
    numbers[10:14] = [100, 50, 25, 25]  # utime, stime, cutime, cstime
    numbers[20] = 1000  # rss
    rest = " ".join(map(str, numbers))
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "stat").write_text(f"77 (a) R 1 (b)) S {rest}")
    (tmp_path / "78").mkdir()
    (tmp_path / "self").mkdir()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert from_proc(tmp_path) == {77: Entry(3, 1000 * page, 200 / tick)}


def test_pages_of_files_are_told_apart_unless_they_are_locked(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    for pid, resident in ((7, LARGE), (8, LARGE), (9, LARGE), (10, LARGE - page)):
        numbers = [0] * 50
        numbers[0], numbers[20] = 1, resident // page
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {' '.join(map(str, numbers))}")
    for pid, locked in ((7, 0), (8, 9000), (10, 0)):
        status = (
            f"Name:\tRssFile: 1 kB\nVmLck:\t{locked:8} kB\nRssAnon:\t    4096 kB\nRssFile:\t   12000 kB\n"
        )
        (tmp_path / str(pid) / "status").write_text(status)
    found = from_proc(tmp_path)
    # The third has ended in between.
    assert {pid: each.cached for pid, each in found.items()} == {7: 12000 << 10, 8: 3000 << 10, 10: 0}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_mapped_file_is_resident_and_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * (64 << 20))
    code = (
        "import mmap, sys, time; file = open(sys.argv[1], 'rb'); kept = bytearray(32 << 20)\n"
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); sum(mapped[::4096])\n"
        "print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline()
        found = table()[child.pid]
        assert 64 << 20 <= found.cached < 96 << 20
        assert found.memory - found.cached >= 32 << 20
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_output_of_ps_is_read() -> None:
    found = from_ps(PS)
    assert set(found) == {1, 501, 40100, 40101}
    assert found[40100][:2] == (501, 102400 * 1024)
    assert found[40100].cpu == pytest.approx(123 * 60 + 45.67)
    assert found[40101].cpu == pytest.approx(86400 + 2 * 3600 + 3 * 60 + 4)


def entry(parent: int) -> Entry:
    return Entry(parent, 1, 1.0)


def test_an_engine_is_all_below_its_warden_and_nothing_else() -> None:
    # 10 is the gateway, 20 and 30 are wardens, 21 and 31 engines; 23's parent has ended, so the warden adopted it.
    parents = {1: 0, 10: 1, 20: 10, 21: 20, 22: 21, 23: 20, 30: 10, 31: 30, 40: 10}
    processes = {pid: entry(parent) for pid, parent in parents.items()}
    found = trees(processes, {"a": 21, "b": 31, "gone": 99}, own=10)
    assert found == {"a": {21, 22, 23}, "b": {31}, "gone": frozenset()}


def test_without_a_warden_an_engine_is_all_below_itself() -> None:
    processes = {pid: entry(parent) for pid, parent in {1: 0, 10: 1, 21: 1, 22: 21, 50: 1}.items()}
    assert trees(processes, {"a": 21}, own=10) == {"a": {21, 22}}


def test_processor_time_never_falls_and_goes_on_over_starts() -> None:
    cpu = CpuTime()
    cpu.add(5, 10.0)
    cpu.add(5, 12.0)
    assert cpu.seconds == 12.0
    cpu.add(5, 7.0)  # a process has ended that nobody waited for
    assert cpu.seconds == 12.0
    cpu.add(5, 8.0)
    assert cpu.seconds == 13.0
    cpu.add(6, 2.0)  # the next start
    assert cpu.seconds == 15.0


def test_the_real_table_knows_a_child_its_memory_and_its_time() -> None:
    code = "import time; kept = bytearray(64 << 20); sum(range(10**7)); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline()
        found = table()[child.pid]
        assert found.parent == os.getpid()
        assert found.memory > 64 << 20
        assert 0.01 < found.cpu < 60
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    deadline = time.monotonic() + 5
    while child.pid in table():
        assert time.monotonic() < deadline

"""The machine's memory and processors, from files and outputs as the manuals have them, and from this machine."""

from pathlib import Path

import pytest

from gateway.machine.host import Host, HostSource, cpu_times, from_vm_stat, meminfo

MEMINFO = """MemTotal:       24684092 kB
MemFree:         1234567 kB
MemAvailable:   20504796 kB
HugePages_Total:       0
"""
STAT = "cpu  {user} 10 300 {idle} 50 0 20 5 {guest} 0\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1\n"
# As a Mac with pages of 16 KiB prints it, shortened.
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                                     9436.
Pages active:                                 774260.
Pages inactive:                               915780.
Pages speculative:                              1639.
Pages throttled:                                   0.
Pages wired down:                             184732.
"Translation faults":                       37287533.
"""


def write(folder: Path, user: int, idle: int, guest: int = 0) -> None:
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "stat").write_text(STAT.format(user=user, idle=idle, guest=guest))


def test_memory_and_the_share_of_time_between_two_looks(tmp_path: Path) -> None:
    write(tmp_path, 1000, 5000)
    source = HostSource(tmp_path)
    total, available = 24684092 * 1024, 20504796 * 1024
    assert source.read() == Host(total, available, None)
    write(tmp_path, 1030, 5070, guest=30)  # the time of guests is in that of users already
    assert source.read().cpu == pytest.approx(0.3)
    assert source.read().cpu is None


def test_what_is_not_there_is_absent(tmp_path: Path) -> None:
    assert HostSource(tmp_path).read() == Host()
    assert meminfo("MemTotal: a lot\n") == {}
    assert cpu_times("intr 1\n") is None


def test_the_output_of_vm_stat_is_read() -> None:
    assert from_vm_stat(VM_STAT, 36 << 30) == Host(36 << 30, (9436 + 915780 + 1639) * 16384)
    assert from_vm_stat("", 36 << 30) == Host(36 << 30)


def test_this_machine_tells_of_itself() -> None:
    found = HostSource().read()
    assert found.memory_total is not None
    assert found.memory_available is not None
    assert 0 < found.memory_available < found.memory_total

"""The table of GPUs in `gateway status`."""

from datetime import UTC, datetime

from gateway.console.frames import status_lines
from gateway.console.gpus import NAMES, gpu_rows
from gateway.console.rates import WANTED, read
from gateway.telemetry.metrics import Metrics

STATUS = {"ready": True, "version": "1", "uptime": 60, "processes": 1, "phases": {}, "requests": 0}


def page() -> str:
    metrics = Metrics("9")
    machine, gpu = metrics.machine, ("nvidia0", "NVIDIA H200")
    machine.gpu_utilization.cell(*gpu).value = 0.434
    machine.gpu_memory_used.cell(*gpu).value = 50 * 2**30
    machine.gpu_memory_total.cell(*gpu).value = 140 * 2**30
    machine.gpu_power.cell(*gpu).value = 312.5
    machine.gpu_power_limit.cell(*gpu).value = 700
    machine.gpu_temperature.cell(*gpu).value = 61
    machine.gpu_backend.cell("nvidia0", "b").value = 1
    machine.gpu_backend.cell("nvidia0", "a").value = 1
    machine.gpu_memory_used.cell("apple0", "Apple M3").value = 2 * 2**30
    return "".join(metrics.pieces())


def test_a_gpu_shows_what_it_tells() -> None:
    assert gpu_rows(read(page(), NAMES)) == [
        ("apple0", "Apple M3", "-", "2 GiB", "-", "-", "-"),
        ("nvidia0", "NVIDIA H200", "43%", "50 of 140 GiB", "312 of 700 W", "61 °C", "a, b"),
    ]


def test_the_status_has_the_table_where_there_is_a_gpu() -> None:
    now = datetime.now(UTC)
    lines = status_lines("http://x:1", STATUS, [], read(page(), WANTED | NAMES), now)
    assert lines[-3].split() == ["GPU", "NAME", "USE", "MEMORY", "POWER", "TEMPERATURE", "BACKENDS"]
    assert lines[-1].startswith("nvidia0  NVIDIA H200  43%")
    without = status_lines(
        "http://x:1", STATUS, [], read("".join(Metrics("9").pieces()), WANTED | NAMES), now
    )
    assert not any("GPU" in line for line in without)

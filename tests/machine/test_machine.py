"""The machine as a whole: who uses which GPU, and what the metrics show of it."""

import asyncio
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.machine import machine
from gateway.machine.gpu import Gpu, GpuUser
from gateway.machine.host import Host
from gateway.machine.machine import Machine, Use
from gateway.machine.processes import Entry, Table, table
from gateway.telemetry.metrics import Metrics
from tests.serving import Answer

ROOT = Path(__file__).parents[2]
OWN = os.getpid()
LINE = re.compile(r"(gateway_(?:gpu|host|engine)_\S+?(?:\{.*\})) (\S+)")


class Source:
    """A vendor's GPUs as a test says they are."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus
        self.hangs: threading.Event | None = None

    def read(self) -> tuple[Gpu, ...]:
        if self.hangs is not None:
            self.hangs.wait(30)
        return self.gpus


class Scene:
    """A machine with two launched engines, each below its warden."""

    def __init__(self, *sources: Source) -> None:
        self.metrics = Metrics("1")
        self.launched: dict[str, int | None] = {"a": 21, "b": 31}
        self.table: Table = {
            OWN: Entry(1, 5, 1.0),
            20: Entry(OWN, 7, 0.5),
            21: Entry(20, 100, 10.0),
            22: Entry(21, 50, 2.0),
            30: Entry(OWN, 7, 0.5),
            31: Entry(30, 300, 5.0),
        }
        self.host = Host(1000, 400, 0.25)
        self.machine = Machine(
            lambda: self.launched,
            self.metrics.machine,
            [(f"source {number}", source) for number, source in enumerate(sources)],
            lambda: self.host,
            lambda: self.table,
        )

    async def shown(self) -> dict[str, float]:
        """Look once, and return the lines of the metrics page that are of the machine."""
        await self.machine.look()
        lines = [line for piece in self.metrics.pieces() for line in piece.splitlines()]
        return {match[1]: float(match[2]) for line in lines if (match := LINE.fullmatch(line))}


async def test_everything_is_shown() -> None:
    users = (GpuUser(22, 30), GpuUser(21, 10), GpuUser(4000, 5))
    scene = Scene(
        Source(Gpu("nvidia0", "H200", 0.5, 60, 80, 300.0, 700.0, 61.0, users)),
        Source(Gpu("amd0", "MI300X", users=(GpuUser(31, None), GpuUser(22, 8)))),
    )
    h200 = '{gpu="nvidia0",name="H200"}'
    assert await scene.shown() == {
        f"gateway_gpu_utilization_ratio{h200}": 0.5,
        f"gateway_gpu_memory_used_bytes{h200}": 60,
        f"gateway_gpu_memory_total_bytes{h200}": 80,
        f"gateway_gpu_power_watts{h200}": 300,
        f"gateway_gpu_power_limit_watts{h200}": 700,
        f"gateway_gpu_temperature_celsius{h200}": 61,
        'gateway_gpu_backend{backend="a",gpu="nvidia0"}': 1,
        'gateway_gpu_backend{backend="a",gpu="amd0"}': 1,
        'gateway_gpu_backend{backend="b",gpu="amd0"}': 1,
        'gateway_gpu_backend_memory_bytes{backend="a",gpu="nvidia0"}': 40,
        'gateway_gpu_backend_memory_bytes{backend="a",gpu="amd0"}': 8,
        "gateway_host_memory_total_bytes{}": 1000,
        "gateway_host_memory_available_bytes{}": 400,
        "gateway_host_cpu_ratio{}": 0.25,
        'gateway_engine_memory_bytes{backend="a"}': 150,
        'gateway_engine_memory_bytes{backend="b"}': 300,
        'gateway_engine_cpu_seconds_total{backend="a"}': 12,
        'gateway_engine_cpu_seconds_total{backend="b"}': 5,
    }
    assert [gpu.id for gpu in scene.machine.gpus()] == ["nvidia0", "amd0"]
    assert scene.machine.host() == scene.host
    assert scene.machine.uses()["b"] == Use(300, 5.0, {"amd0": None})


async def test_what_is_told_no_longer_vanishes() -> None:
    source = Source(Gpu("nvidia0", "L4", 0.0, 1, 2, users=(GpuUser(21, 1),)), Gpu("nvidia1", "L4", 0.9))
    scene = Scene(source)
    before = await scene.shown()
    assert before['gateway_gpu_utilization_ratio{gpu="nvidia0",name="L4"}'] == 0.0
    source.gpus = (Gpu("nvidia0", "L4", None, 1, 2),)
    scene.host = Host(1000)
    shown = await scene.shown()
    assert [name for name in shown if "gpu_" in name] == [
        'gateway_gpu_memory_used_bytes{gpu="nvidia0",name="L4"}',
        'gateway_gpu_memory_total_bytes{gpu="nvidia0",name="L4"}',
    ]
    assert [name for name in shown if "host_" in name] == ["gateway_host_memory_total_bytes{}"]


async def test_an_engine_that_does_not_run_keeps_its_count_until_its_backend_leaves() -> None:
    scene = Scene(Source(Gpu("nvidia0", "L4", users=(GpuUser(31, 9),))))
    assert 'gateway_gpu_backend{backend="b",gpu="nvidia0"}' in await scene.shown()
    scene.launched["b"] = None
    left = [name for name in await scene.shown() if 'backend="b"' in name]
    assert left == ['gateway_engine_cpu_seconds_total{backend="b"}']
    del scene.launched["b"]
    assert not [name for name in await scene.shown() if 'backend="b"' in name]
    assert set(scene.machine.uses()) == {"a"}


def utilizations(shown: dict[str, float]) -> list[str]:
    return [name for name in shown if "utilization" in name]


async def test_a_driver_that_hangs_takes_only_its_own_values_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, fine = Source(Gpu("nvidia0", "L4", 0.5)), Source(Gpu("amd0", "MI300X", 0.7))
    scene = Scene(stuck, fine)
    assert len(utilizations(await scene.shown())) == 2
    stuck.hangs = release = threading.Event()
    monkeypatch.setattr(machine, "PATIENCE", 0.5)
    for _ in range(2):
        shown = await scene.shown()
        assert utilizations(shown) == ['gateway_gpu_utilization_ratio{gpu="amd0",name="MI300X"}']
        assert shown['gateway_engine_memory_bytes{backend="a"}'] == 150
    stuck.hangs = None
    release.set()
    for _ in range(1000):
        if len(utilizations(await scene.shown())) == 2:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the driver answers again")


async def test_a_look_begins_when_the_one_under_way_has_ended() -> None:
    """Else the older one might be told last, and the newer one would find the driver busy."""
    source = Source(Gpu("nvidia0", "L4", 0.5))
    source.hangs = release = threading.Event()
    scene = Scene(source)
    first = asyncio.create_task(scene.machine.look())
    await asyncio.sleep(0)
    second = asyncio.create_task(scene.shown())
    await asyncio.sleep(0)
    source.hangs = None
    release.set()
    await first
    source.gpus = ()
    assert utilizations(await second) == []


async def test_without_a_launched_engine_no_process_is_looked_at() -> None:
    def nobody() -> Table:
        raise AssertionError("nobody has asked for it")

    scene = Machine(lambda: {"a": None}, Metrics("1").machine, [], Host, nobody)
    await scene.look()
    assert scene.uses() == {}


async def test_a_bug_is_logged_once_and_the_next_look_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "INTERVAL", 0.01)
    looks = 0

    def launched() -> dict[str, int | None]:
        nonlocal looks
        looks += 1
        raise RuntimeError("oh")

    scene = Machine(launched, Metrics("1").machine, [], Host)
    running = asyncio.create_task(scene.run())
    for _ in range(1000):
        if looks >= 3:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert looks >= 3
    assert [record.getMessage() for record in caplog.records] == [
        "the machine cannot be looked at, which is a bug"
    ]


async def page(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    try:
        return Answer.read(await asyncio.wait_for(reader.read(), 30)).body.decode()
    finally:
        writer.close()


async def until(port: int, holds: Callable[[str], bool]) -> str:
    for _ in range(300):
        text = await page(port)
        if holds(text):
            return text
        await asyncio.sleep(0.2)
    raise AssertionError(text)


def engine_of(gateway: int) -> int:
    """Return the process id of the engine that a gateway has launched, which is a child of its warden."""
    processes = table()
    for pid, found in processes.items():
        above = processes.get(found.parent)
        command = Path(f"/proc/{found.parent}/cmdline")
        if above is not None and above.parent == gateway and b"warden" in command.read_bytes():
            return pid
    raise AssertionError("the engine runs")


@pytest.mark.slow
@pytest.mark.timeout(150)  # several programs start, one after the other
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_gateway_shows_what_its_engine_uses_once_however_many_workers(
    tmp_path: Path, nvml: Path, workers: int
) -> None:
    """The real embedded engine, and a library that says that it uses a GPU."""
    file, pid = tmp_path / "gateway.yaml", tmp_path / "pid"
    file.write_text(
        f'server: {{listen: "127.0.0.1:0"}}\n'
        f"backends: {{local: {{engine: llamacpp, launch: {{model: {ROOT}/models/demo.gguf, threads: 1}}}}}}\n"
    )
    command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", str(workers)]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml), "NVML_PID": str(pid)}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment
    )
    assert process.stdout is not None
    try:
        first = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        port = int(re.findall(r":(\d+)", first)[-1])
        text = await until(port, lambda text: 'gateway_engine_cpu_seconds_total{backend="local"}' in text)
        memory = re.search(r'^gateway_engine_memory_bytes{backend="local"} (\S+)$', text, re.MULTILINE)
        assert memory is not None
        assert 10e6 < float(memory[1]) < 5e9
        assert 'gateway_gpu_power_watts{gpu="nvidia0",name="NVIDIA H200"} 312.5\n' in text
        assert 'gateway_gpu_temperature_celsius{gpu="nvidia1",name="NVIDIA H200"} 61.0\n' in text
        assert "gateway_gpu_backend{" not in text
        pid.write_text(str(engine_of(process.pid)))
        text = await until(port, lambda text: "gateway_gpu_backend{" in text)
        assert 'gateway_gpu_backend{backend="local",gpu="nvidia0"} 1.0\n' in text
        assert 'gateway_gpu_backend_memory_bytes{backend="local",gpu="nvidia0"} 40000000000.0\n' in text
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 30)

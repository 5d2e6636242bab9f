"""Several workers behind one port: numbers add up, a dead worker is replaced, and nothing outlives the master."""

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.base import Call
from gateway.config import file as config
from gateway.fleet.fleet import Fleet
from gateway.fleet.location import Location
from gateway.fleet.orders import Kind, Order
from gateway.link import Link
from gateway.telemetry.merging import merge, of_master
from gateway.telemetry.metrics import Metrics
from gateway.worker import Worker
from tests.processes import alive, children

ROOT = Path(__file__).parent.parent
CONFIG = f"""
server: {{listen: "127.0.0.1:0"}}
backends:
  local: {{engine: llamacpp, launch: {{model: {ROOT}/models/demo.gguf, threads: 1}}}}
"""
BODY = b'{"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}'


def test_numbers_add_up_and_states_of_one_thing_do_not() -> None:
    dumps = []
    for number in (1, 2):
        metrics = Metrics("9")
        metrics.backends.up.cell("b", "e").value = 1
        cells = metrics.target("m", "b")
        cells.in_flight.value = number
        metrics.requests.overhead.cell("m", "b", "e", "-").observe(number)
        dumps.append(metrics.dump())
    page = "".join(Metrics("9").pieces_of(merge(dumps, Metrics("9").across)))
    assert 'gateway_backend_up{backend="b",engine="e"} 1.0' in page
    assert 'gateway_requests_in_flight{backend="b",model="m"} 3.0' in page
    assert 'gateway_overhead_seconds_count{backend="b",engine="e",model="m",route="-"} 2.0' in page
    assert 'gateway_overhead_seconds_sum{backend="b",engine="e",model="m",route="-"} 3.0' in page
    assert 'gateway_build_info{version="9"} 1.0' in page


def test_the_master_tells_counts_and_only_the_states_that_are_its_business() -> None:
    metrics = Metrics("9")
    metrics.backends.up.cell("b", "e").value = 1
    metrics.backends.signal.cell("b", "kv_use").value = 0.5
    metrics.backends.restarts.cell("b", "e").value = 2
    told = of_master(metrics.dump(), metrics.across)
    assert {name for _, name, _, _ in told} == {"gateway_backend_signal", "gateway_backend_restarts"}


async def test_a_worker_tells_when_it_is_busy_and_hears_of_places_and_changes(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    fleet = Fleet(Metrics("9"), Random(1), lambda: None, launches=False)
    fleet.apply(config.load(file))
    backend = fleet.pool.backends["local"]

    async def nothing(kind: str, arguments: dict[str, Any]) -> Any:
        return [kind, arguments]

    near, far = socket.socketpair()
    link = await Link.on(near)
    stopped = asyncio.Event()
    worker = asyncio.create_task(Worker(await Link.on(far)).run(fleet, Metrics("9"), stopped.set, nothing))
    master = asyncio.create_task(link.listen(lambda message: None))

    assert await link.ask("busy", name="local") == []
    assert await link.ask("question", about="x", arguments={"a": 1}) == ["x", {"a": 1}]
    backend.in_flight, backend.busy_period = 1, 7
    assert await link.ask("busy", name="local") == [[os.getpid(), 7]]
    assert fleet.busy_periods("local") == {(os.getpid(), 7)}

    location = Location("local", "http://127.0.0.1:9", "starting", "sk-engine")
    assert "sk-engine" not in repr(location)
    link.tell("location", location=dataclasses.asdict(location))
    [view] = await link.ask("views")
    assert (view["url"], view["in_flight"]) == ("http://127.0.0.1:9", 1)
    assert backend.upstream is not None
    assert b"authorization: Bearer sk-engine\r\n" in backend.upstream.encode(Call("/"))

    order = Order("local", Kind.DRAIN, seconds=3600.0)
    assert await link.ask("obey", order=order.plain()) is None
    [standing] = fleet.standing()
    assert backend.orders.drained and standing.seconds is not None and 3590 < standing.seconds <= 3600
    link.tell("obey", order=Order("local", Kind.UNDRAIN).plain())

    backend.woken.clear()
    link.tell("changed", name="local")
    await link.ask("views")
    assert backend.woken.is_set() and not backend.orders.drained

    # Whoever of the two goes, the other notices.
    far.shutdown(socket.SHUT_RDWR)
    await asyncio.wait_for(asyncio.gather(worker, master, stopped.wait()), 10)


class Running:
    """`gateway serve --workers 2` as a process."""

    def __init__(self, folder: Path) -> None:
        file = folder / "gateway.yaml"
        file.write_text(CONFIG)
        command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        self.url = re.findall(r"http://\S+", self.process.stdout.readline())[0]
        while "stop: Ctrl-C" not in self.process.stdout.readline():
            assert self.process.poll() is None

    def request(self) -> None:
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(f"{self.url}/v1/chat/completions", BODY, headers)
        with urllib.request.urlopen(call, timeout=30) as answer:
            assert answer.status == 200

    def metric(self, start: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def workers(self) -> list[int]:
        return [pid for pid, command in children(self.process.pid) if " worker " in command]


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    gateway = Running(tmp_path)
    yield gateway
    everything = [pid for pid, _ in children(gateway.process.pid)]
    if gateway.process.poll() is None:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(30) == 0
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()
    eventually(lambda: not any(map(alive, everything)))


@pytest.mark.slow
def test_metrics_are_those_of_all_workers_whichever_is_asked(running: Running) -> None:
    eventually(lambda: len(running.workers()) == 2)
    for count in range(1, 11):
        running.request()
        assert running.metric("gateway_requests_total") == count
    assert running.metric("gateway_backend_up") == 1


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_numbers_stay(running: Running) -> None:
    eventually(lambda: len(running.workers()) == 2)
    for _ in range(6):
        running.request()
    assert running.metric("gateway_requests_total") == 6
    dead = running.workers()[0]
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: len(running.workers()) == 2 and dead not in running.workers())
    assert running.metric("gateway_requests_total") == 6
    running.request()
    assert running.metric("gateway_requests_total") == 7
    assert running.metric("gateway_backend_restarts_total") == 0


@pytest.mark.slow
def test_the_view_is_that_of_all_workers_and_signals_are_asked_once(running: Running) -> None:
    eventually(lambda: len(running.workers()) == 2)
    eventually(
        lambda: (
            running.metric('gateway_backend_signal_status{backend="local",signal="slots",status="ok"') == 1
        )
    )
    assert running.metric('gateway_backend_signal{backend="local",signal="slots"}') == 4
    for _ in range(4):
        with urllib.request.urlopen(f"{running.url}/gateway/backends", timeout=30) as answer:
            [view] = json.loads(answer.read())
        assert (view["name"], view["state"], view["in_flight"]) == ("local", "ready", 0)
        assert alive(view["launched"]["pid"]) and view["launched"]["restarts"] == 0
        assert view["signals"]["slots"]["value"] == 4
        assert [model["id"] for model in view["models"]] == ["demo"]


@pytest.mark.slow
def test_nothing_outlives_a_master_that_is_killed(running: Running) -> None:
    everything = [pid for pid, _ in children(running.process.pid)]
    assert len(everything) >= 3
    running.process.kill()
    running.process.wait()
    eventually(lambda: not any(map(alive, everything)))

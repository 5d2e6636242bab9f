"""Engines that outlive the gateway: real gateways, one after another, with the same data.

Rules:
- A toy engine answers with its process id, so that a test sees which one serves.
- Whatever happens, every test waits until the engines it knows of have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.processes import alive
from tests.serving import Served

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look into the table of processes"),
    pytest.mark.timeout(240),
]
PATIENCE = 60.0


def text(folder: Path, toy: Toy, adopt: str = "30s", more: str = "start: always") -> str:
    return (
        f'server: {{listen: "127.0.0.1:0", data: {folder}/data, engines: {{adopt: {adopt}}}}}\n'
        f"backends:\n{toy.section(more)}"
    )


class Running:
    """A gateway as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.log: list[str] = []
        self._served = Served(None, None, port)  # type: ignore[arg-type]  # only its small client is used

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode())

    async def pid(self) -> int:
        """Ask the engine who it is, as soon as it serves."""
        return await self.ask("a")

    async def order(self, what: str) -> None:
        """Have the engine start, or stop."""
        assert (await self._served.post(f"/gateway/backends/a/{what}", {})).status == 200

    async def ask(self, model: str) -> int:
        """Ask a model's engine who it is, as soon as it serves."""
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self._served.post("/v1/chat/completions", question(model))
                if answer.status == 200:
                    return int(answer.json()["choices"][0]["message"]["content"])
                await asyncio.sleep(0.1)

    def state(self, name: str = "a") -> asyncio.Task[str]:
        async def ask() -> str:
            found = (await self._served.get("/gateway/backends")).json()
            return str(next(each["launched"]["state"] for each in found if each["name"] == name))

        return asyncio.create_task(ask())

    async def loads(self) -> tuple[dict[str, int], float]:
        """Return how many starts are over, by result, and of how many it is counted how long they took."""
        page = (await self._served.get("/metrics")).body.decode()
        found = [line.rpartition(" ") for line in page.splitlines() if line.startswith("gateway_engine_load")]
        results: Counter[str] = Counter()
        for sample, _, value in found:
            if sample.startswith("gateway_engine_loads_total{"):
                results[sample.partition('result="')[2].partition('"')[0]] += int(float(value))
        times = [float(value) for sample, _, value in found if "_duration_seconds_count{" in sample]
        return results, sum(times)

    async def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()


@contextlib.asynccontextmanager
async def running(folder: Path, content: str, *options: str) -> AsyncIterator[Running]:
    file = folder / "gateway.yaml"
    file.write_text(content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", *options, str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    gateway = Running(process, int(first.split(b"http://")[1].split()[0].rpartition(b":")[2]))
    reading = asyncio.create_task(gateway.read())
    try:
        yield gateway
    finally:
        if process.returncode is None:
            await gateway.end(signal.SIGTERM)
        await reading
        print("".join(gateway.log))  # noqa: T201 (pytest shows it where a test fails)
    assert not [line for line in gateway.log if "Traceback" in line]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def ends(pid: int) -> None:
    await until(lambda: not alive(pid), "the engine has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_engine_survives_the_gateway_and_is_taken_over(
    tmp_path: Path, number: signal.Signals
) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        pid = await gateway.pid()
        file = tmp_path / "data" / "wardens" / "a.json"
        assert await gateway.loads() == ({"ready": 1}, 1)
        assert (
            stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        )
        assert json.loads(file.read_bytes())["key"]
        await gateway.end(number)
    assert alive(pid)
    for _ in range(2):
        async with running(tmp_path, text(tmp_path, toy)) as gateway:
            assert await gateway.pid() == pid and toy.starts == 1
            await gateway.end(number)
    async with running(tmp_path, text(tmp_path, toy, "300ms")) as gateway:
        assert await gateway.pid() == pid
        assert await gateway.loads() == ({"adopted": 1}, 0), "which took no time to load"
        os.kill(pid, signal.SIGKILL)
        await until(lambda: toy.starts == 2, "one that was taken over and died is started again")
        other = await gateway.pid()
        assert await gateway.loads() == ({"adopted": 1, "ready": 1}, 1)
    await ends(other)


async def test_nobody_comes_back(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy, "500ms")) as gateway:
        pid = await gateway.pid()
        warden = parent(pid)
        await gateway.end(signal.SIGKILL)
    await ends(pid)
    await ends(warden)
    assert [each.name for each in (tmp_path / "data" / "wardens").iterdir()] == ["a.lock"]
    async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
        other = await gateway.pid()
        assert other != pid and toy.starts == 2
    await ends(other)


async def test_the_engine_of_a_backend_that_left_the_config_ends_as_if_no_gateway_came(
    tmp_path: Path,
) -> None:
    toy, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    async with running(tmp_path, text(tmp_path, toy, "4s")) as gateway:
        pid = await gateway.pid()
        warden = parent(pid)
        await gateway.end(signal.SIGKILL)
    async with running(tmp_path, text(tmp_path, other, "100ms")) as gateway:
        async with asyncio.timeout(PATIENCE):
            while await gateway.state("b") != "ready":  # noqa: ASYNC110 (another process tells nobody)
                await asyncio.sleep(0.05)
        # The next gateway neither takes it over nor ends it: its warden does, when its time is over.
        await ends(pid)
        await ends(warden)
        assert not (tmp_path / "data" / "wardens" / "a.sock").exists()
        assert (toy.starts, other.starts) == (1, 1)


async def test_an_engine_of_another_launch_block_is_ended(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        pid = await gateway.pid()
        await gateway.end(signal.SIGKILL)
    async with running(tmp_path, text(tmp_path, toy, "100ms", "env: {A: b}")) as gateway:
        other = await gateway.pid()
        assert not alive(pid) and other != pid and toy.starts == 2
    await ends(other)


async def test_one_that_runs_on_demand_is_taken_over_before_anybody_asks(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy, "30s", "start: on_demand, warm: [one]")) as gateway:
        pid = await gateway.pid()
    assert alive(pid)
    async with running(
        tmp_path, text(tmp_path, toy, "100ms", "start: on_demand, warm: [one], idle: 2s")
    ) as gateway:
        async with asyncio.timeout(PATIENCE):
            while await gateway.state() != "ready":  # noqa: ASYNC110 (another process tells nobody)
                await asyncio.sleep(0.05)
        assert toy.starts == 1
        assert await gateway.loads() == ({"adopted": 1}, 0)
        assert toy.asked.count("one") == 1, "it is warm already"
        # It has an idle time like any other.
        await ends(pid)


async def test_a_stranger_on_its_port_is_not_taken_for_it(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        pid = await gateway.pid()
        left = json.loads((tmp_path / "data" / "wardens" / "a.json").read_bytes())
        os.kill(parent(pid), signal.SIGKILL)
        await gateway.end(signal.SIGKILL)
    await ends(pid)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", left["port"]))
        stranger.listen()
        stranger.setblocking(False)
        (tmp_path / "data" / "wardens" / "a.json").write_text(json.dumps(left))
        async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
            other = await gateway.pid()
            assert other != pid
            with pytest.raises(BlockingIOError):
                stranger.accept()
        await ends(other)


async def test_only_who_knows_the_token_is_let_in(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        pid = await gateway.pid()
        await gateway.end(signal.SIGKILL)
    file = tmp_path / "data" / "wardens" / "a.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"token": "0" * 64}))
    async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
        other = await gateway.pid()
        assert other != pid
    await ends(other)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    await ends(pid)

"""States in which an engine that outlives the gateway could get lost, or run twice: real gateways, one after another.

Rules:
- Whatever happens, an engine runs once, in the memory that is counted for it, or not at all.
- Every test waits until the engines it knows of have ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from backends.base import Launch
from gateway.fleet.adoption import Remote
from gateway.fleet.launcher import Process
from gateway.fleet.left import Adopting
from gateway.fleet.start import ProcessState
from tests.faults.clients import until
from tests.fleet.playing import Toy
from tests.fleet.test_adoption import PATIENCE, Running, ends, parent, running, text
from tests.fleet.test_any_command import Wrapped
from tests.fleet.test_dozing import Sleeper
from tests.fleet.test_on_demand import MEMORY
from tests.processes import alive

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look into the table of processes"),
    pytest.mark.timeout(240),
]
KILL = signal.SIGKILL


def files(folder: Path) -> list[str]:
    """Return what there is that tells of engines."""
    return sorted(each.name for each in (folder / "data" / "wardens").iterdir() if each.suffix != ".lock")


async def leave(folder: Path, content: str, *options: str) -> int:
    """Have a gateway start an engine, and kill the gateway. Return the engine's process."""
    async with running(folder, content, *options) as gateway:
        pid = await gateway.pid()
        await gateway.end(KILL)
    assert alive(pid)
    return pid


async def becomes(gateway: Running, wanted: str, name: str = "a") -> None:
    async with asyncio.timeout(PATIENCE):
        while await gateway.state(name) != wanted:  # noqa: ASYNC110 (another process tells nobody)
            await asyncio.sleep(0.05)


async def test_a_gateway_with_workers_takes_over_what_one_with_workers_left(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "90s"), "--workers", "2")
    async with running(tmp_path, text(tmp_path, toy, "90s"), "--workers", "2") as gateway:
        assert await gateway.pid() == pid
        await gateway.end(signal.SIGTERM)
    async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
        assert (await gateway.pid(), toy.starts) == (pid, 1)
        os.kill(pid, KILL)
        await until(lambda: toy.starts == 2, "it is started again")
        other = await gateway.pid()
    await ends(other)


async def test_the_stop_command_ends_one_that_was_taken_over_and_one_that_nobody_took(tmp_path: Path) -> None:
    toy = Wrapped(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "90s"))
    async with running(tmp_path, text(tmp_path, toy, "1s")) as gateway:
        assert (await gateway.pid(), toy.stops) == (pid, [])
        await gateway.order("stop")
        await ends(pid)
        assert len(toy.stops) == 1
        await gateway.order("start")
        other = await gateway.pid()
        await gateway.end(KILL)
    assert alive(other)
    await ends(other)
    assert len(toy.stops) == 2
    await until(lambda: files(tmp_path) == [], "nothing tells of it any more")


async def test_an_engine_that_died_while_no_gateway_ran_leaves_nothing_and_starts_for_the_next_request(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "90s", "start: on_demand"))
    os.kill(pid, KILL)
    await until(lambda: files(tmp_path) == [], "nothing tells of it any more")
    async with running(tmp_path, text(tmp_path, toy, "100ms", "start: on_demand")) as gateway:
        await asyncio.sleep(1.5)
        assert (await gateway.state(), toy.starts) == ("stopped", 1)
        other = await gateway.pid()
    await ends(other)


async def test_a_killed_warden_leaves_a_file_that_starts_nothing(tmp_path: Path) -> None:
    """After that, or a power cut, the file tells of a process that is gone, or is another program's by now."""
    toy = Toy(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "90s", "start: on_demand"))
    await until(lambda: len(files(tmp_path)) == 2, "its warden listens")
    os.kill(parent(pid), KILL)
    await ends(pid)
    left = tmp_path / "data" / "wardens" / "a.json"
    left.write_text(json.dumps(json.loads(left.read_bytes()) | {"pid": os.getpid()}))
    async with running(tmp_path, text(tmp_path, toy, "100ms", "start: on_demand")) as gateway:
        await becomes(gateway, "stopped")
        await asyncio.sleep(0.5)
        assert (toy.starts, files(tmp_path)) == (1, [])
        other = await gateway.pid()
    await ends(other)


@pytest.mark.parametrize("loading", [False, True])
async def test_two_gateways_are_killed_in_a_row(tmp_path: Path, loading: bool) -> None:
    toy = Toy(tmp_path, "a")
    if loading:
        toy.set("hold")
    async with running(tmp_path, text(tmp_path, toy, "90s")) as gateway:
        await until(lambda: toy.starts == 1, "it starts")
        await gateway.end(KILL)
    async with running(tmp_path, text(tmp_path, toy, "90s")) as gateway:
        await gateway.end(KILL)
    if loading:
        toy.clear("hold")
    async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
        pid = await gateway.pid()
        assert toy.starts == 1
        os.kill(pid, KILL)
        await until(lambda: toy.starts == 2, "it is started again")
        other = await gateway.pid()
    await ends(other)


async def test_a_second_gateway_with_the_same_data_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    other_folder = tmp_path / "second"
    other_folder.mkdir()
    async with running(tmp_path, text(tmp_path, toy)) as first:
        pid = await first.pid()
        async with running(other_folder, text(tmp_path, toy, "100ms")) as second:
            await until(lambda: any("runs it" in line for line in second.log), "it says why it cannot start")
            [line] = [line for line in second.log if "runs it" in line]
            said = f"another gateway, process {first.process.pid}, runs it: both have the same 'server.data'"
            assert said in line
            assert (await first.pid(), toy.starts) == (pid, 1)
            await first.end(KILL)
            assert (await second.pid(), toy.starts) == (pid, 1)
            os.kill(pid, KILL)
            await until(lambda: toy.starts == 2, "it is started again")
            last = await second.pid()
    await ends(last)


@pytest.mark.parametrize("what", ["api_key", "port", "gone", "attached"])
async def test_an_engine_that_is_configured_otherwise_meanwhile_ends(tmp_path: Path, what: str) -> None:
    toy = Toy(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "90s" if what in ("api_key", "port") else "1s"))
    new = text(tmp_path, toy, "100ms")
    if what == "api_key":
        new = new.replace("engine: llamacpp,", "engine: llamacpp, api_key: secret,")
    elif what == "port":
        new = text(tmp_path, toy, "100ms", 'start: always, extra_args: ["--verbose"]')
    else:
        name = "b" if what == "gone" else "a"
        new = new.partition("backends:\n")[0]
        new += f'backends:\n  {name}: {{engine: openai, url: "http://127.0.0.1:9", models: [m]}}\n'
    async with running(tmp_path, new) as gateway:
        if what in ("api_key", "port"):
            other = await gateway.pid()
            assert other != pid and not alive(pid) and toy.starts == 2
        else:
            await ends(pid)
            other = pid
            await until(lambda: files(tmp_path) == [], "nothing tells of it any more")
    await ends(other)


@pytest.mark.parametrize("content", [b'{"token": "00', b"\xff\xfe"])
async def test_a_file_that_is_cut_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    toy = Toy(tmp_path, "a")
    pid = await leave(tmp_path, text(tmp_path, toy, "2s"))
    left = tmp_path / "data" / "wardens" / "a.json"
    left.write_bytes(content)
    left.with_suffix(".part").write_bytes(content)
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        other = await gateway.pid()
        assert other != pid and toy.starts == 2
        # The one that nobody can find ends by itself, and takes nothing of the other one with it.
        await ends(pid)
        await gateway.end(KILL)
    async with running(tmp_path, text(tmp_path, toy, "100ms")) as gateway:
        assert (await gateway.pid(), toy.starts) == (other, 2)
        os.kill(other, KILL)
        await until(lambda: toy.starts == 3, "it is started again")
        last = await gateway.pid()
    await ends(last)


async def test_where_nothing_can_be_written_the_engine_ends_with_the_gateway(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wardens").write_text("not a folder")
    async with running(tmp_path, text(tmp_path, toy)) as gateway:
        pid = await gateway.pid()
        assert any("cannot be taken over by another gateway" in line for line in gateway.log)
        await gateway.end(KILL)
    await ends(pid)


async def test_an_engine_that_is_about_to_be_taken_over_has_its_memory(tmp_path: Path) -> None:
    """Its warden is slow, and somebody asks for another engine that has no room beside it."""
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    limits = (
        text(tmp_path, one)
        .partition("backends:")[0]
        .replace("adopt: 30s", "adopt: 1s, memory: {ram: 1536MiB}")
    )
    more = f"start: on_demand, {MEMORY}"
    both = f"{limits}backends:\n{one.section(more)}{other.section(more)}"
    pid = await leave(tmp_path, both.replace("adopt: 1s", "adopt: 90s"))
    warden = parent(pid)
    os.kill(warden, signal.SIGSTOP)
    try:
        async with running(tmp_path, both) as gateway:
            asked = asyncio.create_task(gateway.ask("b"))
            await asyncio.sleep(2.5)
            assert (other.starts, asked.done()) == (0, False)
            os.kill(warden, signal.SIGCONT)
            second = await asked
            assert not alive(pid) and one.starts == 1
    finally:
        os.kill(warden, signal.SIGCONT) if alive(warden) else None
    await ends(second)


async def test_one_that_slept_when_the_gateway_ended_sleeps_on_and_wakes_as_the_same_process(
    tmp_path: Path,
) -> None:
    one, other = Sleeper(tmp_path, "a"), Sleeper(tmp_path, "b")
    section = (one.section() + other.section()).replace(
        "sleep_mode: true", "sleep_mode: true, start_timeout: 20s"
    )
    engines = "engines: {adopt: 90s, at_once: 1}"
    content = f'server: {{listen: "127.0.0.1:0", data: {tmp_path}/data, {engines}}}\nbackends:\n{section}'
    async with running(tmp_path, content) as gateway:
        first, second = await gateway.ask("a"), await gateway.ask("b")
        await gateway.end(KILL)
    async with running(tmp_path, content) as gateway:
        await becomes(gateway, "sleeping", "a")
        await becomes(gateway, "ready", "b")
        assert await gateway.loads() == ({"adopted": 2}, 0)
        assert (await gateway.ask("a"), await gateway.ask("b")) == (first, second)
        assert one.told == ["/sleep", "/wake_up", "/sleep"]
    for pid in (first, second):
        os.kill(pid, KILL)
        await ends(pid)


async def test_a_start_that_fails_under_its_warden_leaves_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warden does not say in time that it is there, or the start is given up before it has."""
    toy = Toy(tmp_path, "a")

    async def late(remote: Remote, patience: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(Remote, "greet", late)

    def command(host: str, port: int) -> Launch:
        return Launch((str(toy.program), "--port", str(port)), start_timeout=30.0, stop_timeout=5.0)

    states: list[ProcessState] = []
    process = Process("a", command, states.append, lambda lines: None, Random(1))
    process.arrivals.data = tmp_path / "data"
    process.arrivals.adopting = Adopting(tmp_path / "data" / "wardens", 60.0)
    task = asyncio.create_task(process.run())
    await until(lambda: ProcessState.FAILED in states, "the start has failed")
    assert process.last_error is not None
    await process.stop()
    await task
    await _nothing_runs(toy)
    assert files(tmp_path) == []


async def _nothing_runs(toy: Toy) -> None:
    def runs() -> bool:
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                try:
                    words = (each / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(toy.program).encode() in words:
                    return True
        return False

    await asyncio.sleep(0.5)  # a warden that has only just begun has not started it yet
    await until(lambda: not runs(), "neither the engine nor its warden runs")

"""Engines that sleep to make room: put to sleep after their requests, woken when they are asked for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from backends.base import Health
from gateway.residency.state import EngineState
from tests.faults.clients import until
from tests.fleet.test_on_demand import ask, becomes, pid_of, state
from tests.processes import alive
from tests.serving import Served, serving

VLLM = """#!{python}
import http.server, json, os, pathlib, sys, time
here = pathlib.Path({folder!r})
asleep = False
def note(text):
    with open(here / "told", "a") as file:
        file.write(text + "\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/is_sleeping":
            return self.answer({{"is_sleeping": asleep}})
        self.answer({{"data": [{{"id": {name!r}}}]}})
    def do_POST(self):
        global asleep
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        note(self.path)
        if self.path.startswith(("/sleep", "/wake_up")):
            if (here / ("no" + self.path.replace("/", "-"))).exists():
                return self.answer({{"error": "no"}}, 500)
            asleep = self.path.startswith("/sleep")
            return self.answer({{}})
        said = json.loads(body)["messages"][0]["content"]
        while said == "slow" and not (here / "go").exists():
            time.sleep(0.01)
        message = {{"role": "assistant", "content": str(os.getpid())}}
        choice = {{"index": 0, "message": message, "finish_reason": "stop"}}
        self.answer({{"id": "x", "object": "chat.completion", "created": 1, "model": {name!r}, "choices": [choice]}})
    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Sleeper:
    """A program of a few lines that plays vLLM in sleep mode."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        self.program = self.folder / "vllm"
        self.program.write_text(VLLM.format(python=sys.executable, folder=str(self.folder), name=name))
        self.program.chmod(0o700)

    def section(self, memory: str = "{ram: 10MiB}") -> str:
        launch = f"model: org/{self.name}, name: {self.name}, command: [{self.program}], sleep_mode: true"
        more = f"start: on_demand, memory: {memory}"
        return f"  {self.name}: {{engine: vllm, launch: {{{launch}, {more}}}}}\n"

    @property
    def told(self) -> list[str]:
        """What it was told, but for chats."""
        file = self.folder / "told"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.partition("?")[0] for line in lines if not line.startswith("/v1/")]


def two(folder: Path) -> tuple[Sleeper, Sleeper, str]:
    """Return two engines that do not run at the same time, and their config; one of both may sleep meanwhile."""
    one, other = Sleeper(folder, "a"), Sleeper(folder, "b")
    limits = 'server: {listen: "127.0.0.1:0", engines: {at_once: 1}}\n'
    sections = one.section() + other.section()
    return one, other, limits + "backends:\n" + sections


async def swap(served: Served) -> tuple[int, int]:
    """Ask one, then the other. Return the processes that answered."""
    return pid_of(await ask(served, "a")), pid_of(await ask(served, "b"))


async def test_one_that_can_sleep_does_and_wakes_as_the_same_process(tmp_path: Path) -> None:
    one, other, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        first, second = await swap(served)
        assert state(served, "a") is EngineState.SLEEPING
        assert await swap(served) == (first, second)
        assert one.told == ["/sleep", "/wake_up", "/sleep"]
        assert other.told == ["/sleep", "/wake_up"]
        assert served.metric("gateway_engine_stops_total", backend="a", reason="room") == 2
        found = next(each for each in (await served.get("/gateway/backends")).json() if each["name"] == "a")
        assert (found["state"], found["launched"]["state"]) == ("asleep", "sleeping")


async def test_it_falls_asleep_after_its_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.residency.decide.PATIENCE", 0.5)
    one, _, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        pid_of(await ask(served, "a"))
        slow = ask(served, "a", "slow")
        await until(lambda: served.gateway.pool.backends["a"].in_flight == 1, "a is asked")
        waits = ask(served, "b")
        await becomes(served, "a", EngineState.DRAINING)
        assert one.told == []
        (one.folder / "go").touch()
        pid_of(await slow)
        pid_of(await waits)
        assert one.told == ["/sleep"]


async def test_one_that_does_not_fall_asleep_is_stopped(tmp_path: Path) -> None:
    one, _, text = two(tmp_path)
    (one.folder / "no-sleep").touch()
    async with serving(tmp_path, text) as served:
        await swap(served)
        assert state(served, "a") is EngineState.STOPPED


async def test_one_that_does_not_wake_up_fails_and_starts_anew_for_the_next(tmp_path: Path) -> None:
    one, _, text = two(tmp_path)
    (one.folder / "no-wake_up").touch()
    async with serving(tmp_path, text) as served:
        first, _ = await swap(served)
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "it does not wake up" in answer.error["message"]
        assert pid_of(await ask(served, "a")) != first


async def test_an_operator_stops_one_that_sleeps(tmp_path: Path) -> None:
    _, _, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        first, _ = await swap(served)
        assert state(served, "a") is EngineState.SLEEPING
        await served.post("/gateway/backends/a/stop", {})
        await becomes(served, "a", EngineState.STOPPED)
        assert not alive(first)


async def test_one_that_always_runs_may_sleep_by_order_for_longer_than_a_start_may_take(
    tmp_path: Path,
) -> None:
    one = Sleeper(tmp_path, "a")
    section = one.section().replace("start: on_demand", "start: always")
    async with serving(tmp_path, 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + section) as served:
        first = pid_of(await ask(served, "a"))
        assert (await served.post("/gateway/backends/a/sleep", {})).status == 200
        await until(lambda: served.gateway.pool.backends["a"].health is Health.ASLEEP, "it sleeps")
        keeper = served.gateway.fleet.keeper
        assert keeper is not None
        process = keeper._kept["a"].supervisor.process
        now = asyncio.get_running_loop().time()
        process.start_deadline = now - 1  # as after `start_timeout`
        keeper._kept["a"].supervisor._pool.announce()
        await until(lambda: process.start_deadline is None or process.start_deadline > now, "it is looked at")
        assert (await served.post("/gateway/backends/a/wake", {})).status == 200
        assert pid_of(await ask(served, "a")) == first

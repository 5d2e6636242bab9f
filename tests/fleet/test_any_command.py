"""Servers started by any command, under the whole gateway: real processes.

Rules:
- The command is a wrapper, as scripts around `docker run` are: the server is its child; both hold the output's pipe.
- The stop command leaves a file, so that a test can tell that it was run.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gateway.residency.state import EngineState
from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import ask, becomes, head, pid_of, state
from tests.processes import alive
from tests.serving import serving

WRAPPER = """#!/bin/sh
{deaf}
"$1" --port "$2" &
echo $! > pid
wait
wait
"""
STOP = """#!/bin/sh
echo "$1 in $(pwd)" >> {folder}/stopped
{act}
"""


class Wrapped(Toy):
    """A toy behind a wrapper, with a stop command."""

    def __init__(self, folder: Path, name: str, act: str = "kill $(cat pid)", deaf: str = "") -> None:
        super().__init__(folder, name)
        for file, text in (
            ("run.sh", WRAPPER.format(deaf=deaf)),
            ("stop.sh", STOP.format(folder=self.folder, act=act)),
        ):
            (self.folder / file).write_text(text)
            (self.folder / file).chmod(0o700)

    def section(self, more: str = "start: on_demand") -> str:
        launch: dict[str, Any] = {
            "command": [str(self.folder / "run.sh"), str(self.program), "{port}"],
            "stop": [str(self.folder / "stop.sh"), "{model}"],
            "model": self.name,
            "health": "/health",
        }
        text = json.dumps(launch).removesuffix("}")
        return f"  {self.name}: {{engine: openai, launch: {text}, {more}}}}}\n"

    @property
    def stops(self) -> list[str]:
        file = self.folder / "stopped"
        return file.read_text().splitlines() if file.exists() else []


async def test_a_wrapped_server_serves_and_is_ended_by_its_stop_command(tmp_path: Path) -> None:
    toy, data = Wrapped(tmp_path, "a"), tmp_path / "data"
    async with serving(tmp_path, head(f"data: {data}") + toy.section()) as served:
        pid = pid_of(await ask(served, "a"))
        assert alive(pid) and not toy.stops
        await served.post("/gateway/backends/a/stop", {})
        await becomes(served, "a", EngineState.STOPPED)
        assert not alive(pid) and toy.stops == [f"a in {data}/engines/a"]
        other = pid_of(await ask(served, "a"))
    assert not alive(other) and len(toy.stops) == 2


async def test_a_deaf_server_whose_stop_command_does_nothing_is_killed(tmp_path: Path) -> None:
    toy = Wrapped(tmp_path, "a", act="exit 0", deaf="trap '' TERM")
    async with serving(tmp_path, head() + toy.section("start: on_demand, stop_timeout: 300ms")) as served:
        pid = pid_of(await ask(served, "a"))
        await served.post("/gateway/backends/a/stop", {})
        await becomes(served, "a", EngineState.STOPPED)
        assert not alive(pid) and len(toy.stops) == 1


async def test_a_server_that_dies_has_its_stop_command_run_and_starts_again(tmp_path: Path) -> None:
    toy = Wrapped(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: always")) as served:
        await becomes(served, "a", EngineState.READY)
        await ask(served, "a", "die")
        await until(lambda: toy.starts == 2 and state(served, "a") is EngineState.READY, "it is back")
        assert len(toy.stops) == 1


LEAVES = """#!{python}
import os, pathlib, sys
if os.fork():
    print("3f0c5a1d9b")
    sys.exit()
os.setsid()
pathlib.Path("pid").write_text(str(os.getpid()))
os.execv(sys.argv[1], [sys.argv[1], "--port", sys.argv[2]])
"""


async def test_a_command_that_leaves_its_server_running_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """As `docker run --detach` does, it prints an id and returns; the server has a session of its own."""
    toy, data = Wrapped(tmp_path, "a"), tmp_path / "data"
    (toy.folder / "run.sh").write_text(LEAVES.format(python=sys.executable))
    async with serving(tmp_path, head(f"data: {data}") + toy.section()) as served:
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "a command has to stay as long as its server runs" in answer.error["message"]
        pid = int((data / "engines" / "a" / "pid").read_text())
        await until(lambda: not alive(pid), "the server has ended")
        assert len(toy.stops) == 1


async def test_a_server_that_loads_says_so_by_its_health(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    section = (
        f'  a: {{engine: openai, launch: {{command: ["{sys.executable}", "{program}", "{{port}}"], '
        f'model: a, health: /ready, env: {{GO: "{tmp_path}/go", PROBES: "{tmp_path}/probes"}}, start: on_demand}}}}\n'
    )
    (tmp_path / "probes").write_text("")
    async with serving(tmp_path, head() + section) as served:
        asked = asyncio.create_task(served.post("/v1/chat/completions", question("a")))
        await until(lambda: "503" in (tmp_path / "probes").read_text(), "it has said that it loads")
        assert state(served, "a") is EngineState.STARTING and not asked.done()
        (tmp_path / "go").write_text("")
        assert (await asked).status == 200
        assert "/v1/models" not in (tmp_path / "probes").read_text().partition("200")[0]


SLOW = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if os.path.exists(os.environ["GO"]) else 503
        with open(os.environ["PROBES"], "a") as file:
            file.write(f"{self.path} {status}\\n")
        self.answer(status, {})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        self.answer(200, {"id": "x", "object": "chat.completion", "created": 1, "model": "a", "choices": [choice]})
    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

"""An engine that has died: from when on requests wait for it, and when that is given up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from backends.base import Health, Launch
from gateway.fake.engine import FakeEngine
from gateway.fleet import launcher
from gateway.fleet.health import DOWN_AFTER
from gateway.fleet.launcher import HOPE, ProcessState
from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.test_apply_launched import SERVER, answered_by, config, scene
from tests.fleet.test_launcher import Watched, running
from tests.processes import alive
from tests.serving import serving

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(end='ready', flush=True); time.sleep(60)"
)
CHILD = """
import os as _os, pathlib, subprocess
_file = pathlib.Path({file!r})
if not _file.exists():
    _child = subprocess.Popen([{python!r}, "-c", {stubborn!r}], stdout=subprocess.PIPE)
    _child.stdout.read(5)
    _file.write_text(str(_child.pid))
"""


async def test_requests_wait_from_the_moment_the_process_is_gone(tmp_path: Path) -> None:
    file, program = tmp_path / "child", tmp_path / "llama-server"
    first, _, rest = SERVER.format(python=sys.executable, go=str(tmp_path / "go")).partition("\n")
    child = CHILD.format(file=str(file), python=sys.executable, stubborn=STUBBORN)
    program.write_text(first + child + rest)
    program.chmod(0o700)
    async with scene(tmp_path, config(tmp_path)) as at:
        old = await at.ready()
        left = int(file.read_text())
        os.kill(old, signal.SIGKILL)
        backend = at.member().backend
        await until(lambda: backend.upstream is None, "its end is known")
        assert alive(left), "what it has left behind lives, and keeps the next start waiting"
        assert (backend.health, backend.reason) == (Health.LOADING, "its process has ended")
        assert backend.slow_start_weight < 1
        later = at.ask()
        await until(lambda: at.served.gateway.core.dispatcher.budget.active == 1, "the request waits")
        os.kill(left, signal.SIGKILL)
        assert answered_by(await later) == await at.ready() != old
        assert backend.last_error is not None and "killed" in backend.last_error.message


async def test_an_engine_that_ends_again_and_again_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "FIRST_DELAY", 0.0001)
    seen: list[tuple[ProcessState, bool]] = []

    class Seen(Watched):
        def _become(self, state: ProcessState) -> None:
            super()._become(state)
            seen.append((state, self.coming))

    process = Seen(lambda host, port: Launch((sys.executable, "-c", "pass")))
    async with running(process), asyncio.timeout(30):
        for _ in range(HOPE + 2):
            await process.until(ProcessState.FAILED)
    ends = [coming for state, coming in seen if state is ProcessState.ENDED]
    fails = [coming for state, coming in seen if state is ProcessState.FAILED]
    assert ends[: HOPE + 2] == fails[: HOPE + 2] == [True] * HOPE + [False] * 2
    assert not any(coming for state, coming in seen if state not in (ProcessState.ENDED, ProcessState.FAILED))


async def test_a_program_that_is_not_there_is_not_waited_for() -> None:
    process = Watched(lambda host, port: Launch(("/no/such/program",)))
    async with running(process), asyncio.timeout(30):
        await process.until(ProcessState.FAILED)
        assert not process.coming


LOADING = {
    "match": {"path": "/health"},
    "reply": {"status": 503, "body": {"error": {"type": "unavailable_error"}}},
}


async def test_an_attached_backend_that_dies_while_it_loads_is_down(tmp_path: Path) -> None:
    async with FakeEngine(rules=[LOADING]) as engine:
        text = f'backends: {{a: {{engine: llamacpp, url: "{engine.url}", models: [m]}}}}'
        async with serving(tmp_path, text, patient=False) as served:
            backend = served.gateway.pool.backends["a"]
            assert backend.coming
            await engine.down()
            for _ in range(DOWN_AFTER):
                await served.gateway.fleet.refresh("a")
            assert backend.health is Health.DOWN
            answer = await served.post("/v1/chat/completions", question("m"))
            assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")
            assert "x-should-retry" not in answer.headers, "the engine has not seen it"


async def test_one_lost_probe_is_no_end_of_loading(tmp_path: Path) -> None:
    async with FakeEngine(rules=[LOADING]) as engine:
        text = f'backends: {{a: {{engine: llamacpp, url: "{engine.url}", models: [m]}}}}'
        async with serving(tmp_path, text, patient=False) as served:
            backend, fleet = served.gateway.pool.backends["a"], served.gateway.fleet
            for _ in range(2 * DOWN_AFTER):
                engine.set(rules=[{**LOADING, "faults": [{"at": "request", "do": "reset"}]}])
                await fleet.refresh("a")
                engine.set(rules=[LOADING])
                await fleet.refresh("a")
                assert backend.health is Health.LOADING


async def test_connections_that_were_never_made_may_be_repeated(tmp_path: Path) -> None:
    text = """backends:
      a: {engine: openai, url: "http://127.0.0.1:9", models: [m]}
      b: {engine: openai, url: "http://127.0.0.1:9", models: [m]}"""
    async with serving(tmp_path, text) as served:
        answer = await served.post("/v1/chat/completions", question("m"))
        assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")
        assert "x-should-retry" not in answer.headers

"""An adapter may raise anything anywhere: its backend is worked for all the same, and no other backend notices."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from backends import registry
from backends.base import Call, Health, Launch, ModelCard, Signals
from backends.engines.openai import OpenAI
from gateway.fake.engine import FakeEngine
from gateway.fleet import launcher
from gateway.fleet.health import DOWN_AFTER, Watch
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.output import Output
from tests.faults.clients import until
from tests.faults.support import question
from tests.serving import Served, serving


class Clumsy(OpenAI):
    """An engine whose adapter fails in the methods that a test names."""

    name: ClassVar[str] = "clumsy"
    failing: ClassVar[set[str]] = set()

    def _slip(self, method: str) -> None:
        if method in self.failing:
            raise KeyError(f"a slip in {method}")

    def health(self) -> Call:
        self._slip("health")
        return super().health()

    def health_of(self, status: int, body: bytes) -> Health:
        self._slip("health_of")
        return super().health_of(status, body)

    def health_again(self, status: int) -> Call | None:
        self._slip("health_again")
        return super().health_again(status)

    def models(self) -> Call:
        self._slip("models")
        return Call("/v1/models", method="GET")

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        self._slip("models_of")
        return super().models_of(body)

    def signal_calls(self) -> tuple[Call, ...]:
        self._slip("signal_calls")
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        self._slip("signals_of")
        return {}


@pytest.fixture(autouse=True)
def clumsy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Add the engine to the registry; return the names of its methods that fail."""
    monkeypatch.setitem(registry.ENGINES, "clumsy", f"{__name__}:Clumsy")
    failing: set[str] = set()
    monkeypatch.setattr(Clumsy, "failing", failing)
    return failing


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


PROBED = ("health", "health_of", "health_again", "models", "models_of")


@pytest.mark.parametrize("method", [*PROBED, "signal_calls", "signals_of"])
async def test_other_backends_do_not_notice(
    tmp_path: Path, clumsy: set[str], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    clumsy.add(method)
    async with FakeEngine() as one, FakeEngine() as other:
        config = f"""backends:
          a: {{engine: clumsy, url: "{one.url}", models: [m]}}
          b: {{engine: openai, url: "{other.url}", models: [m]}}"""
        async with serving(tmp_path, config) as served:
            fleet, backends = served.gateway.fleet, served.gateway.pool.backends
            for _ in range(DOWN_AFTER):
                await fleet.refresh("a")
            assert backends["b"].health is Health.READY
            assert (await served.post("/v1/chat/completions", question("m"))).status == 200
            if method not in PROBED:
                return
            down = method != "models_of"
            assert (backends["a"].health is Health.DOWN) is down
            assert len(told(caplog)) == 1, "told once, not at each probe"

            clumsy.clear()
            await fleet.refresh("a")
            assert backends["a"].health is Health.READY


async def test_a_ready_backend_whose_probes_fail_is_not_ready_for_long(
    tmp_path: Path, clumsy: set[str]
) -> None:
    async with FakeEngine() as engine:
        config = f'backends: {{a: {{engine: clumsy, url: "{engine.url}"}}}}'
        async with serving(tmp_path, config) as served:
            assert (await served.get("/readyz")).status == 200
            clumsy.add("health_of")
            for _ in range(DOWN_AFTER):
                await served.gateway.fleet.refresh("a")
            assert (await served.get("/readyz")).status == 503
            view = served.gateway.fleet.views(0.0)[0]
            assert view.reason == "its health probe failed, which is a bug (KeyError)"


async def test_what_is_no_state_is_no_readiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clumsy, "health_of", lambda self, status, body: None)
    async with FakeEngine() as engine:
        config = f'backends: {{a: {{engine: clumsy, url: "{engine.url}"}}}}'
        async with serving(tmp_path, config) as served:
            assert served.gateway.pool.backends["a"].health is Health.DOWN


async def _ready(served: Served) -> bool:
    return (await served.get("/readyz")).status == 200


async def test_readiness_never_comes_from_a_dead_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeEngine() as engine:
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}"}}}}'
        async with serving(tmp_path, config) as served:
            assert await _ready(served)

            async def broken(self: Watch, upstream: Any) -> None:
                raise MemoryError("what nobody thinks of")

            backend = served.gateway.pool.backends["a"]
            with monkeypatch.context() as patch:
                patch.setattr(Watch, "probe", broken)
                backend.woken.set()
                await until(lambda: backend.health is Health.DOWN, "the backend counts as down")
                assert not await _ready(served)
            await until(lambda: backend.health is Health.READY, "it is watched again")
            backend.locate(None)
            assert not await _ready(served), "nobody can be asked there"


def _always(error: Exception) -> Any:
    def failing(*_: object) -> Any:
        raise error

    return failing


SHOUT = """
import pathlib, sys
for _ in range(20000):
    print("x" * 100)
print("last words", flush=True)
pathlib.Path(sys.argv[1]).touch()
"""


@pytest.mark.parametrize("broken", ["log_level", "log"])
async def test_an_engine_never_stands_still_because_nobody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    monkeypatch.setattr(launcher, "FIRST_DELAY", 0.0001)
    if broken == "log":
        monkeypatch.setattr(Output, "_note_line", _always(ValueError("no log")))
    states: asyncio.Queue[ProcessState] = asyncio.Queue()
    done = tmp_path / "done"
    process = Process(
        "toy",
        lambda host, port: Launch((sys.executable, "-c", SHOUT, str(done))),
        states.put_nowait,
        _always(KeyError("crash_reason")),
        Random(1),
        _always(KeyError("log_level")),
    )
    running = asyncio.create_task(process.run())
    try:
        async with asyncio.timeout(20):
            for _ in range(2):
                while await states.get() is not ProcessState.FAILED:
                    pass
        assert done.exists()
        assert process.last_error is not None and "exit status 0" in process.last_error
        if broken == "log_level":
            assert "last words" in process.last_error
        said = [record.getMessage() for record in caplog.records if record.exc_info]
        assert len(said) == 2 and all("which is a bug" in line for line in said), (
            "once each, not at each line"
        )
    finally:
        await process.stop()
        await running


@pytest.mark.parametrize(
    "first",
    [
        _always(KeyError("no such key")),
        lambda host, port: Launch((sys.executable, 7)),  # type: ignore[arg-type]
        lambda host, port: None,
    ],
)
async def test_a_command_that_cannot_be_made_is_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, first: Any
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(launcher, "FIRST_DELAY", 0.0001)
    commands = [
        first,
        first,
        lambda host, port: Launch((sys.executable, "-c", "import signal; signal.pause()")),
    ]
    states: asyncio.Queue[ProcessState] = asyncio.Queue()
    process = Process(
        "toy",
        lambda host, port: commands.pop(0)(host, port),  # noqa: PLW0108 (another one each time)
        states.put_nowait,
        lambda lines: None,
        Random(1),
    )
    running = asyncio.create_task(process.run())
    try:
        async with asyncio.timeout(20):
            while await states.get() is not ProcessState.RUNNING:
                pass
        assert process.last_error is not None and "which is a bug of its adapter" in process.last_error
        assert sum(record.exc_info is not None for record in caplog.records) == 1, "told once"
    finally:
        await process.stop()
        await running

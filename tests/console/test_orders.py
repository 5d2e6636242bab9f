"""`gateway drain`, `undrain`, `backends weight` and `backends reset-breaker` against a real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.console.client import Client, Failed
from gateway.fake.engine import FakeEngine
from gateway.residency.state import EngineState
from tests.console.commands import command
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import becomes, head
from tests.fleet.test_orders import ask, two, view
from tests.serving import Served, serving

Capsys = pytest.CaptureFixture[str]


async def test_a_backend_is_drained_and_undrained(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, _, _):
        said = await command(capsys, served, "drain", "a", "--for", "10m")
        assert said == (0, "a: drained (10 min left), no request runs there\n", "")
        assert (await view(served))["state"] == "drained"
        said = await command(capsys, served, "undrain", "a")
        assert said == (0, "a: ready, no request runs there\n", "")
        assert (await view(served))["state"] == "ready"


async def test_who_waits_is_told_when_nothing_runs_there_any_more(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, a, _):
        await command(capsys, served, "drain", "b")
        a.set(rules=[{"gap": 0.1, "tokens": 8, "text": "count"}])
        stream = ask(served, stream=True)
        await a.until(lambda: any(exchange.events for exchange in a.requests))
        said = await command(capsys, served, "drain", "a", "--wait")
        assert said.status == 0 and said.out == "a: drained, no request runs there\n"
        assert said.err == "waiting (0 s): requests that run there: 1\n"
        assert stream.done() or (await asyncio.wait_for(stream, 5)).whole


async def test_who_waits_is_told_when_somebody_undrains(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, a, _):
        await command(capsys, served, "drain", "b")
        a.set(rules=[{"endless": True, "gap": 0.05, "text": "count"}])
        stream = ask(served, stream=True)
        await a.until(lambda: any(exchange.events for exchange in a.requests))
        said = await command(capsys, served, "drain", "a", "--wait", "--for", "100ms")
        assert (said.status, said.out) == (1, "")
        assert said.err.splitlines()[-1] == "gateway: backend 'a' takes requests again"
        await _stop(served, stream)


async def _stop(served: Served, stream: asyncio.Task[object]) -> None:
    for exchange in list(served.gateway.core.register.running):
        exchange.way.lost()
    stream.cancel()
    await asyncio.wait([stream])


async def test_a_weight_and_a_breaker(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, _, _):
        said = await command(capsys, served, "backends", "weight", "a", "0.25", "--for", "30s")
        assert said == (0, "a: ready (weight 0.25, 30 s left), no request runs there\n", "")
        said = await command(capsys, served, "backends")
        assert "ready (weight 0.25, 30 s left)" in said.out
        breaker = served.gateway.pool.backends["a"].breaker
        now = asyncio.get_running_loop().time()
        for _ in range(2):
            breaker.failed(False, now)
        assert "open" in (await command(capsys, served, "backends")).out
        said = await command(capsys, served, "backends", "reset-breaker", "a")
        assert said.status == 0 and "open" not in said.out
        said = await command(capsys, served, "backends", "weight", "a", "11")
        assert said.status == 1 and "less than or equal to 10" in said.err


def test_an_option_before_the_inner_command_counts(capsys: Capsys) -> None:
    for words in (
        ["--url", "http://127.0.0.1:9", "weight", "a", "1"],
        ["weight", "a", "1", "--url", "http://127.0.0.1:9"],
        ["--url", "http://127.0.0.1:1", "reset-breaker", "a", "--url", "http://127.0.0.1:9"],
    ):
        assert main(["backends", *words]) == 1
        assert "cannot reach the gateway at http://127.0.0.1:9:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["drain"], ["backends", "weight", "a"], ["backends", "weight", "a", "x"]])
def test_a_wrong_command_line_is_told(capsys: Capsys, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: gateway" in capsys.readouterr().err


async def test_an_engine_is_stopped_and_started(tmp_path: Path, capsys: Capsys) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: always")) as served:
        await becomes(served, "a", EngineState.READY)
        said = await command(capsys, served, "stop", "a")
        assert said.out in ("a: draining, no request runs there\n", "a: stopped, no request runs there\n")
        await becomes(served, "a", EngineState.STOPPED)
        shown = (await command(capsys, served, "backends")).out.splitlines()[1].split()
        assert shown[:3] == ["a", "llamacpp", "stopped"]
        said = await command(capsys, served, "start", "a")
        assert said == (0, "a: about to start, no request runs there\n", "")
        await becomes(served, "a", EngineState.READY)


async def test_all_engines_that_are_launched_are_stopped_and_no_others(
    tmp_path: Path, capsys: Capsys
) -> None:
    toys = [Toy(tmp_path, name) for name in "ab"]
    text = head() + toys[0].section("start: always") + toys[1].section()
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, f"{text}  c: {{engine: openai, url: '{engine.url}'}}\n") as served,
    ):
        await becomes(served, "a", EngineState.READY)
        await command(capsys, served, "start", "b")
        await becomes(served, "b", EngineState.READY)
        said = await command(capsys, served, "stop", "--all")
        assert said.status == 0 and [line.partition(":")[0] for line in said.out.splitlines()] == ["a", "b"]
        await becomes(served, "a", EngineState.STOPPED)
        await becomes(served, "b", EngineState.STOPPED)
        assert (await served.post("/v1/chat/completions", question("up"))).status == 200


async def test_one_that_cannot_be_stopped_keeps_no_other_running(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Client.order

    def fails_once(
        client: Client, backend: str, path: str, arguments: dict[str, object]
    ) -> dict[str, object]:
        if backend == "a":
            raise Failed("there is no backend 'a' any more")
        return order(client, backend, path, arguments)

    monkeypatch.setattr(Client, "order", fails_once)
    toys = [Toy(tmp_path, name) for name in "ab"]
    async with serving(tmp_path, head() + "".join(toy.section() for toy in toys)) as served:
        said = await command(capsys, served, "stop", "--all")
        assert (said.status, said.err) == (1, "gateway: there is no backend 'a' any more\n")
        assert said.out == "b: stopped, no request runs there\n"

"""The canaries of the routes: what finished requests tell them, what they show and log, what a reload keeps."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.config.canary import Growth
from gateway.fake.engine import FakeEngine
from gateway.request import Exchange
from gateway.routing.canaries import Canaries, LiveCanary
from gateway.routing.canary import State
from gateway.routing.decision import Decision
from tests.console.commands import command
from tests.faults.clients import CHAT, chat, client, config, http, rest
from tests.serving import Served, on_decision, serving

GROWTH = Growth(steps=(0.5, 1.0), interval=1e-6, samples=10)
NAMES = ("m", "m", GROWTH)


class Watching:
    """A gateway whose every request a canary counts, as `canary` says."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.canary = True
        state = served.gateway._state
        self.live = state.canaries.canary("next", NAMES, 0.0)
        on_decision(served.gateway, self.watch)

    def watch(self, exchange: Exchange, _: Decision) -> None:
        self.live.watch(exchange, self.canary)

    async def ask(self, count: int, canary: bool, **body: Any) -> None:
        self.canary = canary
        for _ in range(count):
            await self.served.post(CHAT, chat(**body))

    @property
    def shown(self) -> tuple[float, float]:
        return (
            self.served.metric("gateway_canary_share", route="next"),
            self.served.metric("gateway_canary_rollbacks_total", route="next"),
        )


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(models=["up"]) as engine:
        yield engine


async def test_good_answers_let_it_grow_and_failures_end_it(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.routing")
    async with serving(
        tmp_path, config(engine.url, defaults="breaker: {failures: 1000}, retry: {attempts: 1}")
    ) as served:
        watching = Watching(served)
        await watching.ask(10, canary=False)
        assert watching.shown == (0.5, 0)
        await watching.ask(10, canary=True)
        assert watching.shown == (1.0, 0)
        assert "route 'next': the canary gets 100 % of the requests" in caplog.text
        engine.set(rules=[{"reply": {"status": 500}}])
        await watching.ask(20, canary=True)
        assert watching.live.state is State.ROLLED_BACK
        assert watching.shown == (0.0, 1)
        told = [record for record in caplog.records if record.levelno == logging.WARNING]
        told = [record for record in told if record.name == "gateway.routing"]
        assert len(told) == 1
        assert "the canary 'm' goes back to zero and stays there:" in told[0].getMessage()
        assert served.metric("gateway_requests_total", outcome="ok") == 20
        watching.live.reset(0.0)
        assert watching.shown == (0.5, 1)


async def test_what_says_nothing_of_a_model_is_not_counted(tmp_path: Path, engine: FakeEngine) -> None:
    async with serving(tmp_path, config(engine.url)) as served, client(served.port) as leaving:
        watching = Watching(served)
        engine.set(rules=[{"reply": {"status": 400}}])
        await watching.ask(5, canary=True)
        engine.set(rules=[{"endless": True, "gap": 0.01}])
        await leaving.send(http(chat(stream=True)))
        await leaving.until(b"data:")
        leaving.leave("RST")
        await rest(served)
        counted = watching.live._canary
        assert (counted.canary.total, counted.incumbent.total) == (0, 0)


async def test_streams_tell_the_time_to_the_first_token_and_whole_answers_do_not(
    tmp_path: Path, engine: FakeEngine
) -> None:
    async with serving(tmp_path, config(engine.url)) as served:
        watching = Watching(served)
        engine.set(rules=[{"first_token": 0.05, "tokens": 3, "gap": 0.6}])
        await watching.ask(1, canary=True, stream=True)
        await watching.ask(1, canary=True)
        arm = watching.live._canary.canary
        assert (arm.total, arm.first_token.total) == (2, 1)
        assert 0.04 < arm.first_token.percentile(0.5) < 1


async def test_an_answer_of_a_fallback_is_a_failure_of_the_model(tmp_path: Path, engine: FakeEngine) -> None:
    async with FakeEngine(models=["up"], defaults={"reply": {"status": 503}}) as bad:
        models = "models: {m: {targets: {engine-0: up}, fallback: [n]}, n: {targets: {engine-1: up}}}\n"
        text = config(bad.url, engine.url).split("models:\n")[0] + models
        async with serving(tmp_path, text) as served:
            watching = Watching(served)
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, "n")
            await rest(served)
            assert watching.live._canary.canary.failed == 1


ROUTE = """
routes:
  - name: trial
    match: {model: m}
    to: {failover: [{canary: {model: n, against: m, steps: [50%, 100%], interval: 1h, samples: 10}}, m]}
"""
TWO_MODELS = "models: {m: {targets: {engine-0: up}}, n: {targets: {engine-1: up}}}\n"


async def test_operators_see_canaries_and_begin_them_again(
    tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeEngine(models=["up"], defaults={"reply": {"status": 500}}) as bad:
        text = config(engine.url, bad.url, defaults="breaker: {failures: 1000}, retry: {attempts: 1}")
        async with serving(tmp_path, text.split("models:\n")[0] + TWO_MODELS + ROUTE) as served:

            async def shown() -> dict[str, Any]:
                (canary,) = (await served.get("/gateway/canaries")).json()
                assert (canary["route"], canary["model"], canary["against"]) == ("trial/0", "n", "m")
                (here,) = canary["processes"]
                return dict(here)

            begun = await shown()
            assert (begun["state"], begun["share"], begun["reason"]) == ("growing", 0.5, "")
            assert "with 0 requests of the canary and 0 of the incumbent" in begun["progress"]
            for _ in range(60):
                await served.post(CHAT, chat())
            gone = await shown()
            assert (gone["state"], gone["share"]) == ("rolled_back", 0.0)
            assert "requests failed" in gone["reason"]
            assert gone["progress"] == "step 1 of 2 was its last"
            said = await command(capsys, served, "canaries")
            assert said.status == 0
            assert said.out.startswith("trial/0: n against m\n  0 % of the requests, rolled back: ")
            said = await command(capsys, served, "canaries", "--reset", "trial/0")
            assert (said.status, said.err) == (0, "")
            assert "  50 % of the requests, growing; step 1 of 2 for" in said.out
            assert (await shown())["state"] == "growing"
            assert served.metric("gateway_canary_share", route="trial/0") == 0.5
            said = await command(capsys, served, "canaries", "--reset", "other")
            assert (said.status, said.err) == (1, "gateway: no route has a canary 'other'\n")
            assert (await served.post("/gateway/canaries/other/reset", {})).status == 404


async def test_without_a_canary_there_is_none_to_see(
    tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path, config(engine.url)) as served:
        assert (await command(capsys, served, "canaries")) == (0, "no route has a canary\n", "")
        assert (await command(capsys, served, "canaries", "--json")).out == "[]\n"


async def test_only_operators_see_canaries(tmp_path: Path, engine: FakeEngine) -> None:
    keys = """
server: {listen: "127.0.0.1:0", auth: keys}
keys: {team: {value: "${env.KEY}"}}
"""
    text = config(engine.url)
    text = keys + text[text.index("backends:") :]
    async with serving(tmp_path, text, environ={"KEY": "a-key"}) as served:
        team = {"authorization": "Bearer a-key"}
        assert (await served.get("/gateway/canaries", **team)).status == 403
        assert (await served.post("/gateway/canaries/x/reset", {}, **team)).status == 403
        assert (await served.get("/gateway/canaries")).status == 401


async def test_a_reload_keeps_a_canary_unless_it_is_another_one(tmp_path: Path, engine: FakeEngine) -> None:
    async with serving(tmp_path, config(engine.url)) as served:
        canaries: Canaries = served.gateway._state.canaries
        first: LiveCanary = canaries.canary("r", NAMES, 0.0)
        assert canaries.canary("r", ("m", "m", GROWTH.model_copy()), 9.0) is first
        slower = GROWTH.model_copy(update={"interval": 2.0})
        assert canaries.canary("r", ("m", "m", slower), 9.0) is not first
        canaries.keep(())
        assert canaries.live == {}
        assert 'route="r"' not in "".join(served.gateway.metrics.pieces())

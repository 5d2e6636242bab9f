"""Copies of requests that another model answers to nobody: what they cost, what they show, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.dispatch import shadow
from gateway.fake.engine import FakeEngine
from gateway.request import Exchange
from gateway.routing.decision import Decision
from gateway.wire.tee import Tee
from tests.faults.clients import CHAT, chat, client, config, http, rest, said, settled, until
from tests.serving import Answer, Served, on_decision, serving

FOREVER = {"first_token": 30.0}
MODELS = "models: {m: {targets: {engine-0: up}}, other: {targets: {engine-1: up}, %s}}\n"


@dataclass
class Stage:
    """A gateway that has the model `other` answer a copy of each request for `m`."""

    served: Served
    own: FakeEngine
    other: FakeEngine
    exchanges: list[Exchange]

    async def ask(self, stream: bool = True, **more: Any) -> Answer:
        return await self.served.post(CHAT, chat(stream=stream, **more))

    @property
    def shadows(self) -> shadow.Shadows:
        return self.served.gateway.core.dispatcher.shadows

    def copies(self, result: str) -> float:
        return self.served.metric("gateway_shadow_total", route="r", result=result)

    def compared(self, aspect: str, result: str) -> float:
        return self.served.metric("gateway_shadow_compared_total", route="r", aspect=aspect, result=result)

    async def over(self) -> None:
        """Wait until nothing is left of any copy."""
        await until(lambda: not self.shadows.running and not self.shadows.register.running, "no copy is left")
        assert self.shadows._bytes == 0
        await rest(self.served)


@contextlib.asynccontextmanager
async def staged(folder: Path, other: str = "") -> AsyncIterator[Stage]:
    async with FakeEngine(models=["up"]) as first, FakeEngine(models=["up"]) as second:
        text = config(first.url, second.url).split("models:\n")[0] + MODELS % other
        async with serving(folder, text) as served:
            core = served.gateway.core
            exchanges: list[Exchange] = []

            def shadowed(exchange: Exchange, decision: Decision) -> None:
                if decision.plan.model == "m":
                    exchanges.append(exchange)
                    plan = core.snapshot.catalog.resolve("other", exchange.caller)
                    core.dispatcher.shadows.send(exchange, plan, "r")

            on_decision(served.gateway, shadowed)
            stage = Stage(served, first, second, exchanges)
            yield stage
            await stage.over()


def asked(engine: FakeEngine) -> list[Any]:
    return [request for request in engine.requests if request.path == CHAT]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_client_gets_its_answer_and_the_copy_is_compared(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        answers = [await stage.ask(stream) for _ in range(3)]
        await stage.over()
        for answer in answers:
            assert (answer.status, answer.whole) == (200, True)
            assert answer.headers["x-gateway-backend"] == "engine-0"
        if stream:
            assert said(answers[0]).startswith("word0 word1")
        assert (len(asked(stage.own)), len(asked(stage.other))) == (3, 3)
        assert stage.copies("ok") == 3
        for aspect in ("outcome", "finish", "text"):
            assert (stage.compared(aspect, "same"), stage.compared(aspect, "different")) == (3, 0), aspect
        served = stage.served
        assert served.metric("gateway_shadow_tokens_ratio_count", route="r") == 3
        assert served.metric("gateway_shadow_tokens_ratio_sum", route="r") == 3
        assert served.metric("gateway_shadow_first_token_ratio_count", route="r") == (3 if stream else 0)
        # None of it looks like a client's.
        assert served.metric("gateway_requests_total") == 3
        assert served.metric("gateway_attempts_total") == 3
        assert served.metric("gateway_tokens_total", model="other") == 0
        assert served.metric("gateway_time_to_first_token_seconds_count", model="other") == 0
        assert served.metric("gateway_time_between_tokens_seconds_count", model="other") == 0


async def test_another_answer_is_seen(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.own.set(rules=[{"say": "one two three four", "finish": "stop"}])
        stage.other.set(rules=[{"say": "five six", "finish": "length"}])
        await stage.ask()
        await stage.over()
        assert stage.compared("outcome", "same") == 1
        assert stage.compared("finish", "different") == 1
        assert stage.compared("text", "different") == 1
        assert stage.served.metric("gateway_shadow_tokens_ratio_sum", route="r") == pytest.approx(0.5)


async def test_a_slow_copy_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.served.port) as caller:
        stage.other.set(rules=[FOREVER])
        for _ in range(3):  # on one connection, one after the other
            await caller.send(http(chat(stream=True)))
            assert (await caller.answer()).status == 200
        await rest_of_clients(stage.served)
        assert stage.shadows.running == 3
        stage.shadows.stop()
        await stage.over()
        assert stage.copies("cancelled") == 3
        assert stage.compared("outcome", "same") == stage.compared("outcome", "different") == 0


async def rest_of_clients(served: Served) -> None:
    await until(lambda: not served.gateway.core.register.running, "no client's request runs")


@pytest.mark.parametrize(
    "behaviour",
    [
        {"reply": {"status": 500}},
        {"reply": {"status": 400}},
        {"faults": [{"at": "request", "do": "reset"}]},
        {"faults": [{"at": "event 2", "do": "close"}]},
    ],
    ids=["500", "400", "reset", "broken"],
)
async def test_a_copy_that_fails_is_tried_once_and_is_nobodys_failure(
    tmp_path: Path, behaviour: dict[str, Any]
) -> None:
    async with staged(tmp_path) as stage:
        stage.other.set(rules=[behaviour])
        assert (await stage.ask()).whole
        await stage.over()
        assert len(asked(stage.other)) == 1
        assert stage.copies("failed") == 1
        assert stage.compared("outcome", "different") == 1
        assert stage.served.metric("gateway_requests_total", outcome="ok") == 1
        assert stage.served.metric("gateway_failovers_total") == 0
        await settled(stage.served, stage.own)


async def test_a_failed_original_and_its_copy_are_compared(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.own.set(rules=[{"reply": {"status": 500}}])
        assert (await stage.ask()).status == 502
        await stage.over()
        assert (stage.copies("ok"), stage.compared("outcome", "different")) == (1, 1)


async def test_a_backend_that_cannot_be_reached_fails_copies_and_its_breaker_opens(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.other.stop()
        for _ in range(8):
            assert (await stage.ask()).whole
            await stage.over()
        assert stage.copies("failed") >= 1
        assert stage.copies("failed") + stage.copies("busy") == 8


async def test_a_copy_waits_for_no_slot(tmp_path: Path) -> None:
    async with staged(tmp_path, "admission: {concurrency: 1}") as stage:
        stage.other.set(rules=[FOREVER])
        await stage.ask()
        assert (await stage.ask()).whole
        assert (stage.copies("busy"), len(asked(stage.other))) == (1, 1)
        assert stage.served.metric("gateway_requests_queued") == 0
        stage.shadows.stop()


async def test_a_copy_stands_in_no_queue_of_an_engine(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        backend = stage.served.gateway.pool.backends["engine-1"]
        backend.load.take({"waiting": (2.0, 0.0)}, (), 0, asyncio.get_running_loop().time())
        await stage.ask()
        await stage.over()
        assert (stage.copies("busy"), len(asked(stage.other))) == (1, 0)


async def test_there_are_so_many_copies_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "MOST", 2)
    async with staged(tmp_path) as stage:
        stage.other.set(rules=[FOREVER])
        for _ in range(5):
            assert (await stage.ask()).whole
        assert (stage.shadows.running, stage.copies("skipped")) == (2, 3)
        stage.shadows.stop()
        await stage.over()
        await stage.ask()
        assert stage.copies("skipped") == 4, "none after a stop"


async def test_copies_hold_so_many_bytes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "MOST_BYTES", 4 * shadow.KEPT + 10_000)
    async with staged(tmp_path) as stage:
        stage.other.set(rules=[FOREVER])
        for _ in range(3):
            assert (await stage.ask()).whole
        assert (stage.shadows.running, stage.copies("skipped")) == (2, 1)
        stage.shadows.stop()


async def test_a_client_that_leaves_ends_the_copy(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.served.port) as caller:
        for engine in (stage.own, stage.other):
            engine.set(rules=[{"endless": True, "gap": 0.01}])
        await caller.send(http(chat(stream=True)))
        await caller.until(b"word3")
        caller.leave("RST")
        await stage.over()
        for engine in (stage.own, stage.other):
            await engine.until(lambda: asked(engine)[0].outcome == "aborted")  # noqa: B023 (it is awaited)
        assert stage.copies("cancelled") == 1
        assert stage.served.metric("gateway_requests_total", outcome="client_gone") == 1


async def test_a_stop_ends_copies_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.other.set(rules=[FOREVER])
        await stage.ask()
        assert stage.shadows.running == 1
        stage.served.gateway.drain()
        await stage.other.until(lambda: asked(stage.other)[0].outcome == "aborted")
        assert stage.copies("cancelled") == 1


async def test_a_client_that_reads_slowly_still_slows_its_engine(tmp_path: Path) -> None:
    """The kept answer is no way around flow control, and what is too long is not kept."""
    async with staged(tmp_path) as stage, client(stage.served.port, receive_buffer=4096) as caller:
        stage.own.set(rules=[{"endless": True}])
        await caller.send(http(chat(stream=True)))
        await until(lambda: bool(asked(stage.own)), "the engine has the request")
        way = stage.exchanges[0].way
        assert isinstance(way, Tee)
        await until(lambda: getattr(way.source, "paused", False), "reading from the engine is paused")
        assert way._kept.body is None and not way._kept._parts
        caller.leave("RST")
        await stage.over()


async def test_what_is_too_long_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "KEPT", 1_000)
    async with staged(tmp_path) as stage:
        assert (await stage.ask(max_tokens=100)).whole
        await stage.over()
        assert stage.compared("text", "same") == stage.compared("text", "different") == 0
        assert stage.compared("outcome", "same") == 1
        assert stage.served.metric("gateway_shadow_tokens_ratio_sum", route="r") == 1


async def test_an_engine_that_dies_of_copies_does_not_make_the_request_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            stage.other.set(rules=[{"faults": [{"at": "request", "do": "reset"}]}])
            await stage.ask()
            await stage.over()
            for death in stage.shadows.quarantine.deaths:
                death.confirmed = True
        assert len(stage.shadows.quarantine.deaths) == 2
        assert not stage.served.gateway.core.dispatcher.quarantine.deaths
        backend = stage.served.gateway.pool.backends["engine-1"]
        backend.breaker = backend.breaker.anew()
        assert loop.time() > 0 and (await stage.ask()).whole
        await stage.over()
        assert stage.copies("skipped") == 1

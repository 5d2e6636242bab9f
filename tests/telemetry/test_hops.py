"""The hops of every request that ends sum to its total in the metrics, whichever way it came and whatever it met."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from gateway.request import Exchange
from gateway.telemetry.timeline import HOPS
from tests.faults.clients import CHAT, Client, chat, client, config, http, rest, until
from tests.serving import Served, serving

PATHS = {"the fast door": (), "ASGI": ("X-Twice: 1", "X-Twice: 2")}


class Ended:
    """A sink that keeps what is known of finished requests, and hands them on."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.totals: list[int] = []
        self.outcomes: list[str] = []

    def finished(self, exchange: Exchange) -> None:
        self._inner.finished(exchange)  # type: ignore[attr-defined]
        self.totals.append(exchange.timeline.total)
        self.outcomes.append(exchange.outcome)


class Stage:
    """A gateway with two engines, and the requests that ended there."""

    def __init__(
        self, served: Served, first: FakeEngine, second: FakeEngine, headers: tuple[str, ...]
    ) -> None:
        self.served, self.first, self.second, self.headers = served, first, second, headers

    async def ask(self, **fields: object) -> None:
        async with client(self.served.port) as caller:
            await caller.send(http(chat(**fields), *self.headers))  # type: ignore[arg-type]
            await caller.answer()

    async def leave(self, **fields: object) -> None:
        """Ask, and leave as soon as the engine has the request and the client what can be had at once."""
        asked = len(self.first.requests) + len(self.second.requests)
        caller = await Client.connect(self.served.port)
        await caller.send(http(chat(**fields), *self.headers))  # type: ignore[arg-type]
        await until(lambda: len(self.first.requests) + len(self.second.requests) > asked, "it has arrived")
        await asyncio.sleep(0.02)
        caller.leave()


async def whole(stage: Stage) -> None:
    await stage.ask(stream=False)


async def streamed(stage: Stage) -> None:
    await stage.ask(stream=True)


async def queued(stage: Stage) -> None:
    stage.first.set(models=["up"], defaults={"first_token": 0.03})
    stage.second.set(models=["up"], defaults={"first_token": 0.03})
    await asyncio.gather(*(stage.ask(stream=True) for _ in range(3)))


async def retried(stage: Stage) -> None:
    stage.first.set(models=["up"], rules=[{"match": {"path": CHAT}, "reply": {"status": 500}}])
    await stage.ask(stream=True)
    await stage.ask(stream=False)


async def failed(stage: Stage) -> None:
    for engine in (stage.first, stage.second):
        engine.set(models=["up"], rules=[{"match": {"path": CHAT}, "reply": {"status": 500}}])
    await stage.ask(stream=True)


async def refused(stage: Stage) -> None:
    await stage.ask(model="nobody-knows")
    await stage.ask(stream="perhaps")


async def gone(stage: Stage) -> None:
    for engine in (stage.first, stage.second):
        engine.set(models=["up"], defaults={"first_token": 60})
    await stage.leave(stream=True)
    await stage.leave(stream=False)


async def gone_within(stage: Stage) -> None:
    for engine in (stage.first, stage.second):
        engine.set(models=["up"], defaults={"gap": 60})
    await stage.leave(stream=True)


CASES: dict[str, tuple[Callable[[Stage], Awaitable[None]], set[str], set[str]]] = {
    "whole": (whole, {"ok"}, {"receive", "auth", "route", "send", "first_byte", "finish"}),
    "streamed": (streamed, {"ok"}, {"receive", "route", "first_byte", "stream", "finish"}),
    "queued": (queued, {"ok"}, {"queue"}),
    "retried": (retried, {"ok"}, {"route", "connect", "finish"}),
    "failed": (failed, {"upstream_error"}, {"first_byte", "finish"}),
    "refused": (refused, {"client_error"}, {"receive", "auth", "route"}),
    "gone": (gone, {"client_gone"}, {"first_byte"}),
    "gone within the answer": (gone_within, {"client_gone"}, {"stream"}),
}
"""What happens, how the requests end, and some hops that they were in."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
async def test_the_hops_of_every_request_sum_to_its_total(case: str, path: str, tmp_path: Path) -> None:
    do, outcomes, hops = CASES[case]
    text = config("{0}", "{1}", model="admission: {concurrency: 1}, balance: round_robin")
    async with FakeEngine(models=["up"]) as first, FakeEngine(models=["up"]) as second:
        text = text.replace("{0}", first.url).replace("{1}", second.url)
        async with serving(tmp_path, text) as served:
            ended = served.gateway.core.sink = Ended(served.gateway.core.sink)
            await do(Stage(served, first, second, PATHS[path]))
            await rest(served)
            assert set(ended.outcomes) == outcomes
            total = sum(ended.totals) / 1e9
            assert served.metric("gateway_hop_seconds_sum") == pytest.approx(total, rel=1e-9)
            received = served.metric("gateway_hop_seconds_sum", hop="receive")
            lasted = served.metric("gateway_request_duration_seconds_sum")
            assert lasted + received == pytest.approx(total, rel=1e-9)
            seen = {hop for hop in HOPS if served.metric("gateway_hop_seconds_count", hop=hop)}
            assert hops <= seen
            [outcome] = outcomes
            for hop in seen:
                count = served.metric("gateway_hop_seconds_count", hop=hop, outcome=outcome, route="-")
                assert 0 < count <= len(ended.totals)

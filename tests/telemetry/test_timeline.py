"""The hops of a request sum to its total, whatever it went through: as pure values, and through a running gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake.engine import FakeEngine
from gateway.request import Exchange
from gateway.telemetry import timeline
from gateway.telemetry.timeline import HOPS, Timeline
from tests.faults.clients import CHAT, Client, chat, client, config, http, until
from tests.serving import serving

HOP_NUMBERS = st.integers(0, len(HOPS) - 1)


@given(st.lists(HOP_NUMBERS, max_size=50))
def test_hops_sum_to_the_total(hops: list[int]) -> None:
    before = perf_counter_ns()
    line = Timeline(before)
    times = [line.mark(hop) for hop in hops]
    assert times == sorted(times)
    assert sum(line.spent) == line.total == (times[-1] - before if times else 0)
    assert all(spent >= 0 for spent in line.spent)
    assert [hop for hop, spent in enumerate(line.spent) if spent] == sorted(
        {timeline.RECEIVE, *hops[:-1]} & {hop for hop, spent in enumerate(line.spent) if spent}
    )


def test_every_hop_has_its_name() -> None:
    numbers = [getattr(timeline, name.upper()) for name in HOPS]
    assert numbers == list(range(len(HOPS)))


class Kept:
    """A sink that keeps the timelines of finished requests, and hands the requests on."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.requests: list[tuple[str, int, dict[str, int]]] = []

    def finished(self, exchange: Exchange) -> None:
        line = exchange.timeline
        assert sum(line.spent) == line.total
        spent = {name: line.spent[number] for number, name in enumerate(HOPS) if line.spent[number]}
        self.requests.append((exchange.outcome, line.total, spent))
        self._inner.finished(exchange)  # type: ignore[attr-defined]


MS = 1_000_000


@pytest.mark.parametrize("headers", [(), ("X-Twice: 1", "X-Twice: 2")], ids=["plain", "odd"])
async def test_each_hop_is_where_the_time_went(headers: tuple[str, ...], tmp_path: Path) -> None:
    """Delays are put in one hop after the other, and are found there; every request's hops sum to its total."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, model="admission: {concurrency: 1}")) as served,
    ):
        kept = Kept(served.gateway.core.sink)
        served.gateway.core.sink = kept

        async def ask(stream: bool, **behaviour: object) -> dict[str, int]:
            engine.set(models=["up"], defaults=behaviour)
            async with client(served.port) as caller:
                began = perf_counter_ns()
                await caller.send(http(chat(stream=stream), *headers))
                assert (await caller.answer()).status == 200
                lasted = perf_counter_ns() - began
            await until(lambda: bool(kept.requests), "the request is counted")
            outcome, total, spent = kept.requests.pop()
            assert outcome == "ok" and 0 < total <= lasted
            return spent

        first = await ask(True)
        assert {"receive", "auth", "route", "connect", "send", "first_byte"} <= first.keys()
        again = await ask(True)
        assert "connect" not in again, "an idle connection was at hand"
        late = await ask(True, first_token=0.06, http={"early_headers": True})
        assert late["first_token"] >= 50 * MS > late["stream"] + late["first_byte"]
        slow = await ask(True, first_token=0.06)
        assert slow["first_byte"] >= 50 * MS > slow["first_token"] + slow["stream"]
        long = await ask(True, tokens=4, gap=0.02)
        assert long["stream"] >= 50 * MS > long["first_byte"] + long["first_token"]
        whole = await ask(False, first_token=0.06)
        assert whole["first_byte"] >= 50 * MS and "first_token" not in whole

        engine.set(models=["up"], defaults={"first_token": 0.06})
        async with client(served.port) as holder, client(served.port) as waiter:
            await holder.send(http(chat(stream=True), *headers))
            await engine.until(lambda: engine.requests[-1].path == CHAT)
            await waiter.send(http(chat(stream=True), *headers))
            assert (await holder.answer()).status == (await waiter.answer()).status == 200
        await until(lambda: len(kept.requests) == 2, "both are counted")
        queued = kept.requests[1][2]
        assert queued["queue"] >= 40 * MS


async def test_time_in_the_queue_and_in_retries_is_no_overhead(tmp_path: Path) -> None:
    """The overhead is the gateway's own work: what is waited for elsewhere is in other hops."""
    failing = [{"match": {"path": CHAT}, "first_token": 0.05, "reply": {"status": 500}}]
    async with (
        FakeEngine(models=["up"], rules=failing) as broken,
        FakeEngine(models=["up"], defaults={"first_token": 0.05}) as sound,
        serving(tmp_path, config(broken.url, sound.url, model="balance: round_robin")) as served,
    ):
        kept = Kept(served.gateway.core.sink)
        served.gateway.core.sink = kept
        for _ in range(2):
            assert (await served.post(CHAT, chat())).status == 200
        await until(lambda: len(kept.requests) == 2, "both are counted")
        assert max(spent["route"] + spent["auth"] for _, _, spent in kept.requests) < 50 * MS
        count = served.metric("gateway_overhead_seconds_count")
        assert count >= 2 and served.metric("gateway_overhead_seconds_sum") / count < 0.05


async def test_a_client_that_leaves_has_a_timeline_too(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60}) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        kept = Kept(served.gateway.core.sink)
        served.gateway.core.sink = kept
        caller = await Client.connect(served.port)
        await caller.send(http(chat(stream=True)))
        await engine.until(lambda: engine.requests[-1].path == CHAT)
        await asyncio.sleep(0.03)
        caller.leave()
        await until(lambda: bool(kept.requests), "the request is counted")
        outcome, _, spent = kept.requests.pop()
        assert outcome == "client_gone" and spent["first_byte"] >= 20 * MS

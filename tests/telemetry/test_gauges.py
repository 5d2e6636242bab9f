"""Gauges tell what is so at the scrape: states, slots, connections, the loop's lag."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.fake.engine import FakeEngine
from gateway.fleet.view import BackendState
from tests.faults.clients import CHAT, chat, client, config, http, rest, until
from tests.serving import serving


async def test_a_backend_is_in_one_state(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine:
        text = config(engine.url, "http://127.0.0.1:9")
        async with serving(tmp_path, text) as served:
            name = "gateway_backend_state"
            await until(lambda: served.metric(name, backend="engine-1", state="down") == 1, "it is known")
            assert served.metric(name, backend="engine-0", engine="openai", state="ready") == 1
            for backend in ("engine-0", "engine-1"):
                assert served.metric(name, backend=backend) == 1
            lines = [
                line for line in "".join(served.gateway.metrics.pieces()).splitlines() if name + "{" in line
            ]
            assert len(lines) == 2 * len(BackendState)


async def test_slots_are_told_where_there_is_a_limit(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60}) as engine,
        serving(tmp_path, config(engine.url, model="admission: {concurrency: 3}")) as served,
    ):
        assert served.metric("gateway_slots", model="m", backend="-") == 3
        assert served.metric("gateway_slots_taken", model="m") == 0
        async with client(served.port) as caller:
            await caller.send(http(chat(stream=True)))
            await engine.until(lambda: engine.requests[-1].path == CHAT)
            assert served.metric("gateway_slots_taken", model="m") == 1
        await rest(served)
        assert served.metric("gateway_slots_taken", model="m") == 0


async def test_open_connections_are_counted_by_what_they_do(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60}) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):

        def counted() -> tuple[float, float]:
            name = "gateway_connections"
            return served.metric(name, state="busy"), served.metric(name, state="idle")

        assert counted() == (0, 0)
        async with client(served.port), client(served.port) as caller:
            await caller.send(http(chat(stream=True)))
            await engine.until(lambda: engine.requests[-1].path == CHAT)
            assert counted() == (1, 1)
        await until(lambda: counted() == (0, 0), "they have left")


async def test_the_loop_is_looked_at_while_the_gateway_serves(tmp_path: Path) -> None:
    async with serving(tmp_path, config("http://127.0.0.1:9")) as served:
        await asyncio.sleep(0.3)
        page = (await served.get("/metrics")).body.decode()
        [line] = [line for line in page.splitlines() if line.startswith("gateway_event_loop_lag_seconds{} ")]
        assert 0 <= float(line.split()[1]) < 5

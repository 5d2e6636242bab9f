"""When engines run, as a config says it, and as the decisions see it: every key of `launch` and of `server.engines`."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path

from gateway.config.defaults import Defaults
from gateway.residency.memory import ENGINES
from gateway.residency.resident import Terms
from tests.faults.clients import client, http, until
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import head
from tests.serving import Answer, serving


async def terms(folder: Path, more: str = "", defaults: str = "", **launches: str) -> dict[str, Terms]:
    """Return the terms of engines that do not run, by name."""
    text = head(more) + "".join(Toy(folder, name).section(launch) for name, launch in launches.items())
    async with serving(folder, text + defaults) as served:
        keeper = served.gateway.fleet.keeper
        assert keeper is not None
        return {name: kept.terms for name, kept in keeper._kept.items()}


async def test_what_a_launch_leaves_out_is_the_default(tmp_path: Path) -> None:
    found = await terms(tmp_path, a="start: on_demand")
    assert found == {"a": Terms(on_demand=True, idle=None)}
    assert Defaults().idle == inf, "which says the same"


async def test_an_idle_time_is_inherited_or_its_own_or_never(tmp_path: Path) -> None:
    launches = {
        "a": "start: on_demand",
        "b": "start: on_demand, idle: 5m",
        "c": "start: on_demand, idle: never",
    }
    found = await terms(tmp_path, defaults="defaults: {idle: 7m}\n", **launches)
    assert {name: each.idle for name, each in found.items()} == {"a": 420.0, "b": 300.0, "c": None}
    found = await terms(tmp_path, defaults="defaults: {idle: never}\n", **launches)
    assert {name: each.idle for name, each in found.items()} == {"a": None, "b": 300.0, "c": None}


async def test_all_that_a_launch_says_reaches_the_decisions(tmp_path: Path) -> None:
    found = await terms(
        tmp_path,
        a="start: on_demand, priority: -3, pin: true, finish_load: true",
        b="start: on_demand, exclusive_with: [a]",
        c="start: on_demand, group: g",
        d="start: on_demand, group: g",
    )
    assert (found["a"].priority, found["a"].pin, found["a"].finish_load) == (-3, True, True)
    assert (found["b"].priority, found["b"].pin, found["b"].finish_load) == (0, False, False)
    assert [found[name].rivals for name in "abcd"] == [set(), {"a"}, {"d"}, {"c"}]


async def test_sets_that_may_run_together_and_their_number_reach_the_decisions(tmp_path: Path) -> None:
    launches = dict.fromkeys("abcd", "start: on_demand")
    engines = "engines: {together: [[a, b], [a, c]], at_once: 2}"
    found = await terms(tmp_path, engines, **launches)
    assert [found[name].rivals for name in "abcd"] == [set(), {"c"}, {"b"}, set()]
    async with serving(tmp_path, head("engines: {at_once: 2}") + Toy(tmp_path, "a").section()) as served:
        keeper = served.gateway.fleet.keeper
        assert keeper is not None and keeper._budget()[ENGINES] == 2


async def test_a_stream_that_waits_for_a_start_has_heartbeats(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = head() + toy.section() + "models: {m: {targets: {a: a}, heartbeat: 20ms}}\n"
    async with serving(tmp_path, text) as served, client(served.port) as caller:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        await caller.send(http(body, "Connection: close"))
        for _ in range(3):
            await caller.until(b"\n: ")
        await until(lambda: toy.starts == 1, "it starts")
        assert toy.asked == [], "it loads still"
        toy.clear("hold")
        async with asyncio.timeout(60):
            answer = Answer.read(await caller.rest())
        assert answer.whole and answer.body.endswith(b"data: [DONE]\n\n")
        assert served.metric("gateway_hop_seconds_count", hop="load") == 1

"""What may happen between two looks of the keeper, or between a reload and the end of an engine: nothing gets lost.

Rules:
- Real processes. Where a race has to be won, the test holds the keeper's look until the other side has happened.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from gateway.fleet.keeper import Use, Uses
from gateway.residency.state import EngineState
from tests.config.files import config as read
from tests.faults.clients import until
from tests.fleet.playing import Toy
from tests.fleet.test_dozing import Sleeper
from tests.fleet.test_on_demand import MEMORY, ask, becomes, head, pid_of, state
from tests.fleet.test_on_demand_states import order
from tests.processes import alive
from tests.serving import Served, serving


async def test_an_order_to_start_one_that_runs_does_not_start_it_again_later(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 500ms")) as served:
        pid_of(await ask(served, "a"))
        assert (await order(served, "a", "start")).status == 200
        await becomes(served, "a", EngineState.STOPPED)
        await asyncio.sleep(0.5)
        assert (toy.starts, state(served, "a")) == (1, EngineState.STOPPED)


async def test_who_asks_between_a_failure_and_the_next_look_is_not_forgotten(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    toy.set("broken", "no space for the weights")
    async with serving(tmp_path, head() + toy.section()) as served:
        keeper = served.gateway.fleet.keeper
        assert keeper is not None
        used, free, holds = keeper._used, asyncio.Event(), asyncio.Event()

        async def slow() -> Uses:
            holds.set()
            await free.wait()
            return await used()

        first = ask(served, "a")
        await until(lambda: toy.starts == 1, "it starts")
        keeper._used = slow
        await holds.wait()
        toy.clear("hold")
        assert (await first).status == 503
        toy.clear("broken")
        second = ask(served, "a")
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="a") == 1, "it waits")
        free.set()
        async with asyncio.timeout(10):
            pid_of(await second)


@pytest.mark.parametrize("told_late", [False, True])
async def test_one_that_has_answered_another_process_is_not_stopped_as_unwanted(
    told_late: bool, tmp_path: Path
) -> None:
    """Each process looks for itself whether an engine is ready, and the one that decides may be the last to see it."""
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 1h")) as served:
        keeper = served.gateway.fleet.keeper
        assert keeper is not None
        times, looks, free = 0, asyncio.Event(), asyncio.Event()

        async def used() -> Uses:
            """Tell what was so when it was asked, be it late."""
            found = {"a": Use(times, 0)}
            looks.set()
            if told_late:
                await free.wait()
            return found

        keeper.want("another process", "a", 1)
        await until(lambda: toy.starts == 1, "it starts")
        keeper._used = used
        await looks.wait()
        times = 1
        keeper.want("another process", "a", 0)
        free.set()
        await asyncio.sleep(0.5)
        assert state(served, "a") is EngineState.STARTING
        toy.clear("hold")
        await becomes(served, "a", EngineState.READY)
        assert toy.starts == 1


async def test_one_that_sleeps_longer_than_a_start_may_take_wakes_as_the_same_process(tmp_path: Path) -> None:
    one, other = Sleeper(tmp_path, "a"), Sleeper(tmp_path, "b")
    sections = (one.section() + other.section()).replace(
        "sleep_mode: true", "sleep_mode: true, start_timeout: 5s"
    )
    text = 'server: {listen: "127.0.0.1:0", engines: {at_once: 1}}\nbackends:\n' + sections
    async with serving(tmp_path, text) as served:
        first = pid_of(await ask(served, "a"))
        pid_of(await ask(served, "b"))
        await becomes(served, "a", EngineState.SLEEPING)
        await asyncio.sleep(5.5)
        assert pid_of(await ask(served, "a")) == first


async def test_warming_up_may_take_longer_than_the_start(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    more = "start: on_demand, warm: [slow], start_timeout: 1s, max_wait: 20s"
    async with serving(tmp_path, head() + toy.section(more)) as served:
        asked = ask(served, "a")
        await until(lambda: toy.asked == ["slow"], "it warms up")
        await asyncio.sleep(1.5)
        toy.set("go")
        pid_of(await asked)
        await asyncio.sleep(1.0)
        assert (toy.starts, state(served, "a")) == (1, EngineState.READY)


async def test_one_that_is_to_be_warmed_up_and_never_answers_is_ended(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    more = "start: on_demand, warm: [quick], start_timeout: 1s, max_wait: 20s"
    async with serving(tmp_path, head() + toy.section(more)) as served:
        async with asyncio.timeout(10):
            answer = await ask(served, "a")
        assert "it was not ready in time (start_timeout)" in answer.error["message"]


async def test_reloads_do_not_keep_an_engine_that_nobody_uses(tmp_path: Path) -> None:
    toy, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    text = head() + toy.section("start: on_demand, idle: 1s")
    async with serving(tmp_path, text) as served:
        pid_of(await ask(served, "a"))
        async with asyncio.timeout(5):
            for number in range(100):
                more = other.section(f"start: on_demand, priority: {number}")
                served.gateway.apply(read(tmp_path, text + more))
                await asyncio.sleep(0.25)
                if state(served, "a") is EngineState.STOPPED:
                    break
    assert toy.starts == 1


@pytest.mark.parametrize("dies_first", [False, True])
async def test_one_that_always_runs_from_now_on_comes_back_when_it_has_died(
    tmp_path: Path, dies_first: bool
) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        first = pid_of(await ask(served, "a"))
        if dies_first:
            os.kill(first, signal.SIGKILL)
            await becomes(served, "a", EngineState.FAILED)
        served.gateway.apply(read(tmp_path, head() + toy.section("start: always")))
        if not dies_first:
            os.kill(first, signal.SIGKILL)
        await until(lambda: toy.starts == 2, "it is started again")
        await becomes(served, "a", EngineState.READY)


async def test_one_that_runs_on_demand_from_now_on_does_not_come_back_by_itself(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: always")) as served:
        await becomes(served, "a", EngineState.READY)
        first = pid_of(await ask(served, "a"))
        served.gateway.apply(read(tmp_path, head() + toy.section()))
        os.kill(first, signal.SIGKILL)
        await becomes(served, "a", EngineState.FAILED)
        await asyncio.sleep(1.0)
        assert toy.starts == 1
        pid_of(await ask(served, "a"))
        assert toy.starts == 2


def _sections(one: Toy, other: Toy, need: str, threads: int) -> str:
    first = one.section(f"start: on_demand, memory: {{ram: {need}}}").replace(
        "threads: 1", f"threads: {threads}"
    )
    return head("engines: {memory: {ram: 2560MiB}}") + first + other.section(f"start: on_demand, {MEMORY}")


async def test_one_that_needs_more_after_a_reload_starts_only_into_room(tmp_path: Path) -> None:
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    async with serving(tmp_path, _sections(one, other, "1GiB", 1)) as served:
        first, second = pid_of(await ask(served, "a")), pid_of(await ask(served, "b"))
        one.set("hold")
        served.gateway.apply(read(tmp_path, _sections(one, other, "2GiB", 2)))
        await until(lambda: one.starts == 2, "it is started as it is configured now")
        assert not alive(first) and not alive(second)
        one.clear("hold")
        await becomes(served, "a", EngineState.READY)


async def test_what_a_replaced_process_took_is_not_held_against_its_successor(tmp_path: Path) -> None:
    """It drains while the machine is looked at, and takes far more than the one that follows."""
    large, folder = Toy(tmp_path, "a", mib=300), tmp_path / "small"
    folder.mkdir()
    small = Toy(folder, "a")
    always = "start: always"
    async with serving(tmp_path, head() + large.section(always)) as served:
        machine = served.gateway.machine
        assert machine is not None
        await becomes(served, "a", EngineState.READY)
        slow = ask(served, "a", "slow")
        await until(lambda: large.asked == ["slow"], "it is asked")
        for text in (head() + large.section(always), head() + small.section(always)):
            served.gateway.apply(read(tmp_path, text))
            await machine.look()
            machine_looked(served)
            await until(lambda: need(served) > 300 << 20, "its memory counts")
        large.set("go")
        pid_of(await slow)
        await until(lambda: small.starts == 1, "another one follows")
        await becomes(served, "a", EngineState.READY)
        await machine.look()
        machine_looked(served)
        await until(lambda: 0 < need(served) < 200 << 20, "the other one's memory does not count any more")


def machine_looked(served: Served) -> None:
    """Have the keeper take note of what was looked at."""
    keeper = served.gateway.fleet.keeper
    assert keeper is not None
    keeper.wake()


def need(served: Served) -> float:
    return served.metric("gateway_engine_memory_need_bytes", backend="a", device="ram")

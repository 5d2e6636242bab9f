"""States in which engines on demand of other programs got lost: each is one that this gateway is put into."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.fleet.keeper import Here
from gateway.fleet.residence import Residence
from gateway.residency.decide import decide
from gateway.residency.state import EngineState
from tests.config.files import config as read
from tests.faults.clients import at_rest, until
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import MEMORY, ask, becomes, head, leave, pid_of, state, two
from tests.processes import alive
from tests.serving import Answer, Served, serving


async def wanted(served: Served, name: str, count: int = 1) -> None:
    """Wait until so many requests wait for an engine."""
    await until(
        lambda: served.metric("gateway_engine_requests_waiting", backend=name) == count,
        f"{count} wait for {name}",
    )


async def order(served: Served, name: str, what: str) -> Answer:
    return await served.post(f"/gateway/backends/{name}/{what}", {})


def pid(served: Served, name: str) -> int:
    member = served.gateway.fleet._members[name].supervisor
    assert member is not None
    assert member.process.pid is not None
    return member.process.pid


async def test_one_who_left_while_it_waited_for_room_starts_nothing_later(tmp_path: Path) -> None:
    one, other, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        slow = ask(served, "a", "slow")
        await until(lambda: one.asked == ["slow"], "a is asked")
        writer = await leave(served, "b")
        await wanted(served, "b")
        writer.close()
        await wanted(served, "b", 0)
        one.set("go")
        pid_of(await slow)
        await asyncio.sleep(1.5)
        assert (other.starts, state(served, "a")) == (0, EngineState.READY)


async def test_one_of_two_who_wait_leaves_and_the_start_goes_on_for_the_other(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section()) as served:
        writer = await leave(served, "a")
        stays = ask(served, "a")
        await wanted(served, "a", 2)
        writer.close()
        await wanted(served, "a", 1)
        toy.clear("hold")
        pid_of(await stays)
        assert toy.starts == 1


async def test_six_requests_for_three_engines_of_which_one_fits_cost_a_start_each(tmp_path: Path) -> None:
    toys = [Toy(tmp_path, name) for name in "abc"]
    text = head("engines: {memory: {ram: 1536MiB}}")
    text += "".join(toy.section(f"start: on_demand, {MEMORY}") for toy in toys)
    async with serving(tmp_path, text) as served:
        for answer in await asyncio.gather(*(ask(served, name) for name in "abcabc")):
            pid_of(answer)
        assert [toy.starts for toy in toys] == [1, 1, 1]


async def test_a_request_that_meets_an_idle_stop_waits_for_its_end_and_starts_it_anew(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("deaf")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 300ms")) as served:
        first = pid_of(await ask(served, "a"))
        await becomes(served, "a", EngineState.DRAINING)
        late = ask(served, "a")
        await wanted(served, "a")
        assert (alive(first), toy.starts, len(toy.asked)) == (True, 1, 1)
        toy.clear("deaf")
        assert pid_of(await late) != first
        assert (alive(first), toy.starts) == (False, 2)


async def test_the_idle_time_begins_anew_with_the_end_of_each_request(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 2s")) as served:
        slow = ask(served, "a", "slow")
        await until(lambda: toy.asked == ["slow"], "it is asked")
        await asyncio.sleep(2.5)
        toy.set("go")
        first = pid_of(await slow)
        for _ in range(4):
            await asyncio.sleep(0.8)
            assert pid_of(await ask(served, "a")) == first
        await asyncio.sleep(0.8)
        assert alive(first)
        # A connection that is open and asks nothing does not keep it.
        _, writer = await served.connect()
        await becomes(served, "a", EngineState.STOPPED)
        writer.close()


async def test_start_and_stop_may_be_said_twice(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section()) as served:
        assert [(await order(served, "a", "start")).status for _ in range(2)] == [200, 200]
        await until(lambda: toy.starts == 1, "it starts")
        assert (await order(served, "a", "start")).status == 200
        toy.clear("hold")
        await becomes(served, "a", EngineState.READY)
        assert (await order(served, "a", "start")).status == 200
        await asyncio.sleep(0.3)
        assert toy.starts == 1
        assert [(await order(served, "a", "stop")).status for _ in range(2)] == [200, 200]
        await becomes(served, "a", EngineState.STOPPED)
        assert (await order(served, "a", "stop")).status == 200
        assert (toy.starts, state(served, "a")) == (1, EngineState.STOPPED)
        assert served.metric("gateway_engine_loads_total", backend="a") == 1


async def test_start_and_stop_from_many_sides_at_once_leave_one_engine_or_none(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        for _ in range(4):
            sides = [order(served, "a", what) for what in ("start", "stop") * 4]
            asked = [ask(served, "a") for _ in range(4)]
            assert {answer.status for answer in await asyncio.gather(*sides)} == {200}
            for answer in await asyncio.gather(*asked):
                assert answer.status == 200 or "an operator has stopped it" in answer.error["message"]
        first = pid_of(await ask(served, "a"))
        assert (pid(served, "a"), state(served, "a")) == (first, EngineState.READY)
        await order(served, "a", "stop")
        await becomes(served, "a", EngineState.STOPPED)
        assert not alive(first)


async def test_a_start_is_stopped_from_many_sides_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """Operators, clients that leave and a change of the config, all while the engine loads."""
    toy = Toy(tmp_path, "a")
    text = head() + toy.section()
    async with serving(tmp_path, text) as served:
        for round_ in range(3):
            toy.set("hold")
            writers = [await leave(served, "a") for _ in range(4)]
            asked = [ask(served, "a") for _ in range(4)]
            await wanted(served, "a", 8)
            await until(lambda: state(served, "a") is EngineState.STARTING, "it starts")
            await until(lambda count=round_ + 1: toy.starts == count, "it has a process")  # type: ignore[misc]
            process = pid(served, "a")
            for writer in writers:
                writer.close()
            orders = [order(served, "a", "stop") for _ in range(5)]
            if round_ == 2:
                served.gateway.apply(read(tmp_path, head() + toy.section("start: on_demand, context: 512")))
            assert {answer.status for answer in await asyncio.gather(*orders)} == {200}
            for answer in await asyncio.gather(*asked):
                assert answer.status == 503
                assert "an operator has stopped it" in answer.error["message"]
            await becomes(served, "a", EngineState.STOPPED)
            await until(lambda process=process: not alive(process), "it has ended")  # type: ignore[misc]
            assert served.metric("gateway_engine_requests_waiting", backend="a") == 0
            assert toy.starts == round_ + 1
        toy.clear("hold")
        pid_of(await ask(served, "a"))
        assert served.metric("gateway_engine_loads_total", backend="a", result="cancelled") == 3


LIMITED = "models: {m: {targets: {a: a}, admission: {concurrency: 2, queue: 1}}}\n"


async def test_requests_that_wait_for_a_start_count_toward_the_limit_of_their_model(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section() + LIMITED) as served:
        loading = [ask(served, "m") for _ in range(2)]
        await wanted(served, "a", 2)
        queued = ask(served, "m")
        await until(lambda: served.metric("gateway_requests_queued", model="m") == 1, "one waits for a slot")
        refused = await ask(served, "m")
        assert (refused.status, refused.error["code"]) == (503, "queue_full")
        assert served.metric("gateway_engine_requests_waiting", backend="a") == 2
        toy.clear("hold")
        for answer in await asyncio.gather(*loading, queued):
            pid_of(answer)
        assert toy.starts == 1


async def test_a_slot_that_was_given_and_is_not_taken_up_is_not_lost(tmp_path: Path) -> None:
    """Clients leave before, while and after their engine becomes ready: every slot comes back."""
    toy = Toy(tmp_path, "a")
    limited = LIMITED.replace("queue: 1", "queue: 50")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 200ms") + limited) as served:
        gate = served.gateway.core.snapshot.catalog.model("m").gate  # type: ignore[union-attr]
        assert gate is not None
        for round_ in range(4):
            toy.set("hold")
            writers = [await leave(served, "m") for _ in range(12)]
            await wanted(served, "a", 2)
            toy.clear("hold")
            for number, writer in enumerate(writers):
                if number % 3 == round_ % 3:
                    await asyncio.sleep(0.03 * round_)
                writer.close()
            # Some of them may be read only after others have ended.
            await until(lambda: at_rest(served) and (gate.held, gate.waiting) == (0, 0), "all have ended")
            assert served.metric("gateway_engine_requests_waiting", backend="a") == 0
            assert served.gateway.pool.backends["a"].in_flight == 0
            # Nobody wants it any more: it stops, or never becomes ready.
            await becomes(served, "a", EngineState.STOPPED)
        for answer in await asyncio.gather(*(ask(served, "m") for _ in range(6))):
            pid_of(answer)


async def test_each_engine_has_its_own_time_to_stop(tmp_path: Path) -> None:
    short, long = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    text = head() + short.section("start: on_demand, stop_timeout: 1s")
    text += long.section("start: on_demand, stop_timeout: 4s")
    async with serving(tmp_path, text) as served:
        first, second = pid_of(await ask(served, "a")), pid_of(await ask(served, "b"))
        for toy in (short, long):
            toy.set("deaf")
        await asyncio.gather(order(served, "a", "stop"), order(served, "b", "stop"))
        await becomes(served, "a", EngineState.STOPPED)
        assert (alive(first), alive(second)) == (False, True)
        await becomes(served, "b", EngineState.STOPPED)
        assert not alive(second)


async def test_a_decision_is_made_of_the_state_there_is_and_not_of_one_looked_at_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all processes are asked for takes a while, and an engine may be stopped meanwhile."""
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 1s")) as served:
        keeper = served.gateway.fleet.keeper
        assert keeper is not None
        first = pid_of(await ask(served, "a"))
        used, slow = keeper._used, asyncio.Event()

        async def late() -> Any:
            found = await used()
            await slow.wait()
            return found

        monkeypatch.setattr(keeper, "_used", late)
        await asyncio.sleep(1.5)
        # The look has seen an idle engine. Before it goes on, somebody else stops it, and a request wants it.
        assert (await order(served, "a", "stop")).status == 200
        await until(lambda: not alive(first), "it has stopped")
        asked = ask(served, "a")
        await wanted(served, "a")
        slow.set()
        pid_of(await asked)
        assert toy.starts == 2
        assert served.metric("gateway_engine_stops_total", backend="a", reason="idle") == 0


async def test_one_that_never_becomes_ready_is_ended_and_those_who_wait_are_told(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section("start: on_demand, start_timeout: 1s")) as served:
        asked = [ask(served, "a") for _ in range(3)]
        await until(lambda: toy.starts == 1, "it starts")
        await wanted(served, "a", 3)
        process = pid(served, "a")
        for answer in await asyncio.gather(*asked):
            assert answer.status == 503
            assert answer.error["code"] == "model_not_started"
            assert "it was not ready in time (start_timeout)" in answer.error["message"]
        await until(lambda: not alive(process), "its process has ended")
        await until(lambda: state(served, "a") in (EngineState.FAILED, EngineState.STOPPED), "it is at rest")
        assert served.metric("gateway_engine_requests_waiting", backend="a") == 0
        assert toy.starts == 1
        toy.clear("hold")
        pid_of(await ask(served, "a"))


async def test_one_that_is_deaf_as_well_is_waited_for_until_it_has_ended(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("mute")
    toy.set("deaf")
    times = "start_timeout: 1s, stop_timeout: 2s"
    async with serving(tmp_path, head() + toy.section(f"start: on_demand, {times}")) as served:
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "it was not ready in time (start_timeout)" in answer.error["message"]


def test_a_wait_for_room_takes_nothing_of_the_time_for_the_start() -> None:
    residence = Residence("a", Here(None))
    residence.longest_start = 30.0
    assert residence.patience(100.0) == 130.0
    residence.become(EngineState.STARTING, 120.0)
    assert residence.patience(100.0) == 150.0
    residence.become(EngineState.WARMING, 140.0)
    assert residence.patience(100.0) == 150.0
    residence.max_wait = 5.0
    assert residence.patience(100.0) == 105.0


@pytest.mark.parametrize("path", ["/backends/a/metrics", "/props?model=a", "/slots?model=a"])
async def test_what_needs_an_engine_that_does_not_run_is_told_so_at_once(tmp_path: Path, path: str) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        async with asyncio.timeout(2):
            answer = await served.get(path)
        assert answer.status in (409, 503)
        assert toy.starts == 0


async def test_a_gateway_that_stops_serves_those_under_way_and_fails_who_still_waits_at_the_end(
    tmp_path: Path,
) -> None:
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    other.set("hold")
    text = head("drain: 2s") + one.section() + other.section()
    async with serving(tmp_path, text) as served:
        slow, waits = ask(served, "a", "slow"), ask(served, "b")
        await until(lambda: one.asked == ["slow"], "a is asked")
        await wanted(served, "b")
        process = pid(served, "b")
        served.server.stop()
        one.set("go")
        pid_of(await slow)
        answer = await asyncio.wait_for(waits, 10)
        assert answer.status == 503
        assert "shutting down" in answer.error["message"]
    assert not alive(process)


async def test_a_bug_in_a_decision_is_logged_once_and_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Toy(tmp_path, "a")
    broken = [True]

    def decides(*arguments: Any) -> Any:
        if broken[0]:
            raise RuntimeError("a bug")
        return decide(*arguments)

    monkeypatch.setattr("gateway.fleet.keeper.decide", decides)
    async with serving(tmp_path, head() + toy.section()) as served:
        asked = ask(served, "a")
        await until(lambda: "cannot be decided" in caplog.text, "it is logged")
        broken[0] = False
        pid_of(await asked)
    assert caplog.text.count("cannot be decided") == 1

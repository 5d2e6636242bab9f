"""Engines that run on demand: started for requests, stopped when idle or for room; real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.machine.aside import Aside
from gateway.machine.host import Host
from gateway.residency.state import EngineState
from tests.config.files import config as read
from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.processes import alive
from tests.serving import Answer, Served, serving

HEAD = 'server: {{listen: "127.0.0.1:0"{more}}}\nbackends:\n'


def head(more: str = "") -> str:
    return HEAD.format(more=", " + more if more else "")


def ask(served: Served, model: str, content: str = "quick") -> asyncio.Task[Answer]:
    body = question(model) | {"messages": [{"role": "user", "content": content}]}
    return asyncio.create_task(served.post("/v1/chat/completions", body))


def pid_of(answer: Answer) -> int:
    assert answer.status == 200, answer
    return int(answer.json()["choices"][0]["message"]["content"])


def state(served: Served, name: str) -> EngineState:
    residence = served.gateway.pool.backends[name].residence
    assert residence is not None
    return residence.state


async def becomes(served: Served, name: str, wanted: EngineState) -> None:
    await until(lambda: state(served, name) is wanted, f"{name} is {wanted}")


async def view(served: Served, name: str) -> dict[str, Any]:
    answer = await served.get("/gateway/backends")
    found: dict[str, Any] = next(each for each in answer.json() if each["name"] == name)
    return found


async def test_an_engine_starts_for_the_first_request_and_serves_all_who_came_meanwhile(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        assert (await served.get("/readyz")).status == 200
        assert [model["id"] for model in (await served.get("/v1/models")).json()["data"]] == ["a"]
        found = await view(served, "a")
        assert (found["state"], found["launched"]["state"], toy.starts) == ("stopped", "stopped", 0)
        toy.set("hold")
        asked = [ask(served, "a") for _ in range(5)]
        await until(lambda: toy.starts == 1, "it starts")
        assert state(served, "a") is EngineState.STARTING
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="a") == 5, "five wait")
        toy.clear("hold")
        answers = await asyncio.gather(*asked)
        assert len({pid_of(answer) for answer in answers}) == 1
        assert (toy.starts, state(served, "a")) == (1, EngineState.READY)
        assert served.metric("gateway_engine_loads_total", backend="a", result="ready") == 1
        assert served.metric("gateway_engine_load_duration_seconds_count", backend="a") == 1
        assert served.metric("gateway_engine_state", backend="a", state="ready") == 1


async def test_looking_starts_nothing_and_does_not_keep_it(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 500ms")) as served:
        paths = ["/v1/models", "/v1/models/a", "/api/tags", "/api/ps", "/gateway/backends", "/metrics", "/"]
        paths += ["/backends/a/metrics", "/gateway/status", "/props?model=a", "/slots?model=a"]
        for path in paths:
            await served.get(path)
        await served.post("/api/show", {"model": "a"})
        assert toy.starts == 0
        pid_of(await ask(served, "a"))
        for _ in range(4):
            for path in ("/backends/a/metrics", "/v1/models", "/props?model=a"):
                await served.get(path)
            await asyncio.sleep(0.2)
        await becomes(served, "a", EngineState.STOPPED)
        assert served.metric("gateway_engine_stops_total", backend="a", reason="idle") == 1


async def test_an_idle_engine_stops_and_the_next_request_starts_it_anew(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    text = head() + toy.section() + "defaults: {idle: 300ms}\n"
    async with serving(tmp_path, text) as served:
        first = pid_of(await ask(served, "a"))
        await becomes(served, "a", EngineState.STOPPED)
        assert not alive(first)
        found = await view(served, "a")
        assert (found["signals"], found["last_error"]) == ({}, None)
        assert pid_of(await ask(served, "a")) != first
        assert toy.starts == 2


async def test_a_request_keeps_an_engine_longer_than_its_idle_time(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, idle: 300ms")) as served:
        slow = ask(served, "a", "slow")
        await until(lambda: toy.asked == ["slow"], "it is asked")
        await asyncio.sleep(1.0)
        toy.set("go")
        pid_of(await slow)
        assert toy.starts == 1


async def test_a_failed_start_fails_all_who_wait_and_the_next_request_tries_anew(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    toy.set("broken", "no space for the weights")
    async with serving(tmp_path, head() + toy.section()) as served:
        asked = [ask(served, "a") for _ in range(3)]
        await until(lambda: toy.starts == 1, "it starts")
        toy.clear("hold")
        for answer in await asyncio.gather(*asked):
            assert (answer.status, answer.error["code"]) == (503, "model_not_started")
            assert "no space for the weights" in answer.error["message"]
        assert toy.starts == 1
        found = await view(served, "a")
        assert (found["state"], found["launched"]["state"]) == ("stopped", "failed")
        assert served.metric("gateway_engine_loads_total", backend="a", result="failed") == 1
        toy.clear("broken")
        pid_of(await ask(served, "a"))
        assert toy.starts == 2


async def test_an_engine_that_dies_is_started_by_the_next_request_only(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        first = pid_of(await ask(served, "a"))
        os.kill(first, signal.SIGKILL)
        await becomes(served, "a", EngineState.FAILED)
        await asyncio.sleep(0.7)
        assert toy.starts == 1
        assert pid_of(await ask(served, "a")) != first


async def leave(served: Served, model: str) -> asyncio.StreamWriter:
    """Ask, and return the connection of a client that may leave."""
    _, writer = await served.connect()
    body = json.dumps(question(model))
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/json\r\n\r\n{body}".encode()
    )
    return writer


@pytest.mark.parametrize("finish", [False, True])
async def test_a_client_that_leaves_takes_its_start_with_it(tmp_path: Path, finish: bool) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    more = f"start: on_demand, finish_load: {str(finish).lower()}"
    async with serving(tmp_path, head() + toy.section(more)) as served:
        writer = await leave(served, "a")
        await until(lambda: toy.starts == 1, "it starts")
        writer.close()
        if finish:
            await until(
                lambda: not served.metric("gateway_engine_requests_waiting", backend="a"), "nobody waits"
            )
            toy.clear("hold")
            await becomes(served, "a", EngineState.READY)
        else:
            await becomes(served, "a", EngineState.STOPPED)
            assert served.metric("gateway_engine_stops_total", backend="a", reason="unwanted") == 1
            assert served.metric("gateway_engine_loads_total", backend="a", result="cancelled") == 1
            toy.clear("hold")
            pid_of(await ask(served, "a"))


async def test_a_request_waits_as_long_as_max_wait(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = head() + toy.section("start: on_demand, max_wait: 500ms")
    async with serving(tmp_path, text) as served:
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        await becomes(served, "a", EngineState.STOPPED)


async def test_a_start_may_take_longer_than_the_queue_timeout(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = head() + toy.section() + "defaults: {timeouts: {queue: 100ms}}\n"
    async with serving(tmp_path, text) as served:
        asked = ask(served, "a")
        await until(lambda: toy.starts == 1, "it starts")
        await asyncio.sleep(0.3)
        toy.clear("hold")
        pid_of(await asked)


MEMORY = "memory: {ram: 1GiB}"
ONE = "engines: {memory: {ram: 1536MiB}}"


def two(folder: Path, more: str = "", server: str = ONE) -> tuple[Toy, Toy, str]:
    """Return two engines of which one fits, and their config."""
    one, other = Toy(folder, "a"), Toy(folder, "b")
    section = f"start: on_demand, {MEMORY}{more}"
    return one, other, head(server) + one.section(section) + other.section(section)


async def test_one_makes_room_for_the_other_and_never_under_a_request(tmp_path: Path) -> None:
    one, other, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        slow = ask(served, "a", "slow")
        await until(lambda: one.asked == ["slow"], "a is asked")
        waits = ask(served, "b")
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="b") == 1, "b is wanted")
        await asyncio.sleep(1.5)
        assert (state(served, "a"), other.starts) == (EngineState.READY, 0)
        one.set("go")
        first = pid_of(await slow)
        pid_of(await waits)
        assert not alive(first)
        assert state(served, "a") is EngineState.STOPPED
        assert served.metric("gateway_engine_stops_total", backend="a", reason="room") == 1


async def test_a_busy_engine_is_drained_and_who_comes_late_waits_for_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.residency.decide.PATIENCE", 0.5)
    one, _, text = two(tmp_path)
    async with serving(tmp_path, text) as served:
        slow = ask(served, "a", "slow")
        await until(lambda: one.asked == ["slow"], "a is asked")
        waits = ask(served, "b")
        await becomes(served, "a", EngineState.DRAINING)
        late = ask(served, "a")
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="a") == 1, "one is late")
        assert one.asked == ["slow"]
        one.set("go")
        first = pid_of(await slow)
        pid_of(await waits)
        assert pid_of(await late) != first


async def test_what_cannot_fit_is_refused_at_once_with_the_arithmetic(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    text = head("engines: {memory: {ram: 512MiB}}") + toy.section(f"start: on_demand, {MEMORY}")
    async with serving(tmp_path, text) as served:
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "it needs 1.0 GiB of RAM, and there are 512.0 MiB" in answer.error["message"]
        trouble = served.gateway.pool.backends["a"].last_error
        assert trouble is not None and "it needs 1.0 GiB of RAM" in trouble.message, "operators are told, too"
        assert toy.starts == 0


async def test_what_was_measured_is_what_counts(tmp_path: Path) -> None:
    """Two engines say that they need little, and one of them takes most of the budget: they run one after the other."""
    liar, other = Toy(tmp_path, "a", mib=300), Toy(tmp_path, "b")
    small = "start: on_demand, memory: {ram: 10MiB}"
    large = "start: on_demand, memory: {ram: 200MiB}"
    text = head("engines: {memory: {ram: 400MiB}}") + liar.section(small) + other.section(large)
    async with serving(tmp_path, text) as served:
        first = pid_of(await ask(served, "a"))
        machine = served.gateway.machine
        assert machine is not None
        await machine.look()
        need = partial(served.metric, "gateway_engine_memory_need_bytes", backend="a", device="ram")
        await until(lambda: need() > 300 << 20, "it is measured")
        pid_of(await ask(served, "b"))
        assert not alive(first)


async def test_prompts_that_warm_an_engine_come_before_the_first_request(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section('start: on_demand, warm: ["one", "two"]')) as served:
        pid_of(await ask(served, "a", "three"))
        assert toy.asked == ["one", "two", "three"]


async def test_an_engine_that_dies_while_it_is_warmed_up_fails_its_start(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section("start: on_demand, warm: [die]")) as served:
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert state(served, "a") is EngineState.FAILED


async def test_an_operator_starts_and_stops_engines(tmp_path: Path) -> None:
    always, toy = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    async with serving(tmp_path, head() + always.section("start: always") + toy.section()) as served:
        assert (await served.post("/gateway/backends/b/start", {})).status == 200
        await becomes(served, "b", EngineState.READY)
        assert (await served.post("/gateway/backends/b/stop", {})).status == 200
        await becomes(served, "b", EngineState.STOPPED)
        pid_of(await ask(served, "b"))
        await served.post("/gateway/backends/a/stop", {})
        await becomes(served, "a", EngineState.STOPPED)
        answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")
        await served.post("/gateway/backends/a/start", {})
        await becomes(served, "a", EngineState.READY)
        pid_of(await ask(served, "a"))


async def test_an_operator_who_stops_a_start_tells_those_who_wait(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    async with serving(tmp_path, head() + toy.section()) as served:
        asked = [ask(served, "a") for _ in range(2)]
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="a") == 2, "two wait")
        await served.post("/gateway/backends/a/stop", {})
        for answer in await asyncio.gather(*asked):
            assert answer.status == 503
            assert "an operator has stopped it" in answer.error["message"]
        await becomes(served, "a", EngineState.STOPPED)


async def test_a_reload_of_when_it_runs_leaves_the_process(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section()) as served:
        first = pid_of(await ask(served, "a"))
        served.gateway.apply(read(tmp_path, head() + toy.section("start: on_demand, idle: 1h, priority: 3")))
        assert pid_of(await ask(served, "a")) == first
        served.gateway.apply(read(tmp_path, head() + toy.section("start: on_demand, idle: 300ms")))
        await becomes(served, "a", EngineState.STOPPED)
        served.gateway.apply(read(tmp_path, head() + toy.section("start: on_demand, context: 512")))
        await asyncio.sleep(0.3)
        assert (toy.starts, state(served, "a")) == (1, EngineState.STOPPED)
        served.gateway.apply(read(tmp_path, head() + toy.section("start: always")))
        await becomes(served, "a", EngineState.READY)


async def test_engines_of_one_group_run_one_at_a_time(tmp_path: Path) -> None:
    _, _, text = two(tmp_path, ", group: big", server="")
    async with serving(tmp_path, text) as served:
        first = pid_of(await ask(served, "a"))
        pid_of(await ask(served, "b"))
        assert not alive(first)


async def test_a_gateway_that_stops_leaves_no_engine_in_whatever_state(tmp_path: Path) -> None:
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    other.set("hold")
    pids: list[int] = []
    text = head() + one.section() + other.section("start: on_demand, finish_load: true")
    async with serving(tmp_path, text) as served:
        pids.append(pid_of(await ask(served, "a")))
        writer = await leave(served, "b")
        await until(lambda: other.starts == 1, "b starts")
        writer.close()
        member = served.gateway.fleet._members["b"].supervisor
        assert member is not None
        await until(lambda: member.process.pid is not None, "b has a process")
        pids.append(member.process.pid or 0)
    assert not any(map(alive, pids))


async def test_what_does_not_fit_beside_other_programs_is_refused_after_a_second_look(tmp_path: Path) -> None:
    """The memory of an engine that has just ended looks like another program's until the next look."""
    toy = Toy(tmp_path, "a")
    text = head("engines: {memory: {ram: 100%}}") + toy.section("start: on_demand, memory: {ram: 1GiB}")
    async with serving(tmp_path, text) as served:
        machine = served.gateway.machine
        assert machine is not None
        await machine.looked.wait()
        total = machine.host().memory_total
        assert total is not None
        machine._host_read = Aside("a full machine", lambda: Host(memory_total=total, memory_available=0))
        await machine.look()
        asked = ask(served, "a")
        await until(lambda: served.metric("gateway_engine_requests_waiting", backend="a") == 1, "it waits")
        assert not asked.done()
        await machine.look()
        answer = await asked
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "it needs 1.0 GiB of RAM, and there are 0 bytes" in answer.error["message"]

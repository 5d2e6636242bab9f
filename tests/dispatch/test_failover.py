"""Where a request goes when a backend cannot serve it: to another one, to a fallback, to a free slot, or it waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from backends.engines.openai import OpenAI
from gateway.fake.engine import FakeEngine
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import State
from gateway.fleet.keeper import Here
from gateway.fleet.residence import Residence
from tests.faults.clients import CHAT, chat, config, rest, until
from tests.serving import Answer, Served, serving

SPARE = """
  spare: {targets: {engine-2: up}}
"""
ENDLESS: dict[str, Any] = {"endless": True, "gap": 0.005}


def two_and_a_fallback(*urls: str, defaults: str = "", model: str = "") -> str:
    """Return a config with a model on two backends, and a fallback on a third one."""
    text = config(*urls, model=f"fallback: [spare], {model}", defaults=defaults, extra=SPARE)
    return text.replace(", engine-2: up}, fallback", "}, fallback")


def backend(served: Served, number: int = 0) -> Backend:
    return served.gateway.pool.backends[f"engine-{number}"]


class OneAtATime(OpenAI):
    """An engine that takes one request at a time."""

    parallel = 1


@pytest.mark.parametrize("attempts", [1, 2])
async def test_two_dead_targets_cost_no_attempt_and_the_fallback_serves(
    attempts: int, tmp_path: Path
) -> None:
    async with (
        FakeEngine(models=["up"]) as first,
        FakeEngine(models=["up"]) as second,
        FakeEngine(models=["up"]) as third,
    ):
        retry = f"retry: {{attempts: {attempts}}}"
        async with serving(
            tmp_path, two_and_a_fallback(first.url, second.url, third.url, defaults=retry)
        ) as served:
            await first.down()
            await second.down()
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, "spare")
            assert answer.headers["x-gateway-attempts"] == "3"
            await first.up()
            await second.up()
            await rest(served)


async def test_attempts_that_are_spent_leave_the_fallback_its_turn(tmp_path: Path) -> None:
    busy = {"reply": {"status": 503}}
    async with (
        FakeEngine(models=["up"], defaults=busy) as first,
        FakeEngine(models=["up"], defaults=busy) as second,
        FakeEngine(models=["up"]) as third,
    ):
        text = two_and_a_fallback(first.url, second.url, third.url, defaults="retry: {attempts: 1}")
        async with serving(tmp_path, text) as served:
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, "spare")
            assert answer.headers["x-gateway-attempts"] == "2"
            await rest(served)


async def test_the_first_failover_needs_no_budget(tmp_path: Path) -> None:
    """All requests of a burst meet the dead backend first; each of them is served by the other one."""
    slow = {"first_token": 0.3, "reply": {"status": 500}}
    async with (
        FakeEngine(models=["up"], defaults=slow) as first,
        FakeEngine(models=["up"]) as second,
        serving(tmp_path, config(first.url, second.url, model="balance: round_robin")) as served,
    ):
        answers = await asyncio.gather(*(served.post(CHAT, chat(f"number {n}")) for n in range(60)))
        assert {answer.status for answer in answers} == {200}
        assert served.metric("gateway_failovers_total", backend="engine-0", reason="failed") == 30
        await rest(served)


async def _occupied(served: Served, number: int) -> asyncio.Task[Answer]:
    """Let a stream take the only slot of a backend; cancel the task to free it."""
    one = backend(served, number)
    one.change_engine(OneAtATime())
    before = one.in_flight
    others = [other for other in served.gateway.pool.backends.values() if other is not one]
    kept = [(other, other.upstream) for other in others]
    for other in others:
        other.upstream = None
    stream = asyncio.create_task(served.post(CHAT, chat("endless", stream=True)))
    await until(lambda: one.in_flight == before + 1, "the slot is taken")
    for other, upstream in kept:
        other.upstream = upstream
    return stream


async def _freed(*streams: asyncio.Task[Answer]) -> None:
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


RULES: list[dict[str, Any]] = [{"match": {"contains": "endless"}, **ENDLESS}]


async def test_a_request_does_not_wait_for_a_slot_while_another_backend_is_free(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=RULES) as first,
        FakeEngine(models=["up"], rules=RULES) as second,
        serving(tmp_path, config(first.url, second.url, model="balance: round_robin")) as served,
    ):
        backend(served, 1).change_engine(OneAtATime())
        stream = await _occupied(served, 0)
        for _ in range(6):
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.headers["x-gateway-backend"]) == (200, "engine-1")
        await _freed(stream)
        await rest(served)


@pytest.mark.parametrize("freed", [0, 1])
async def test_a_request_that_waits_takes_the_first_slot_that_becomes_free(
    freed: int, tmp_path: Path
) -> None:
    async with (
        FakeEngine(models=["up"], rules=RULES) as first,
        FakeEngine(models=["up"], rules=RULES) as second,
        serving(tmp_path, config(first.url, second.url)) as served,
    ):
        streams = [await _occupied(served, 0), await _occupied(served, 1)]
        waiting = asyncio.create_task(served.post(CHAT, chat()))
        await until(lambda: served.metric("gateway_requests_queued") == 1, "it waits")
        assert [backend(served, number).in_flight for number in range(2)] == [1, 1], "it holds no backend"
        await _freed(streams[freed])
        answer = await waiting
        assert (answer.status, answer.headers["x-gateway-backend"]) == (200, f"engine-{freed}")
        assert answer.headers["x-gateway-attempts"] == "1"
        await _freed(*streams)
        await rest(served)


async def test_a_wait_that_takes_too_long_is_no_attempt(tmp_path: Path) -> None:
    timeouts = "timeouts: {queue: 100ms}"
    async with (
        FakeEngine(models=["up"], rules=RULES) as first,
        serving(tmp_path, config(first.url, defaults=timeouts)) as served,
    ):
        stream = await _occupied(served, 0)
        answer = await served.post(CHAT, chat())
        assert (answer.status, answer.error["code"]) == (503, "queue_timeout")
        assert served.metric("gateway_attempts_total") == 0
        await _freed(stream)
        await rest(served)


async def test_after_the_wait_the_fallback_serves(tmp_path: Path) -> None:
    timeouts = "timeouts: {queue: 100ms}"
    async with (
        FakeEngine(models=["up"], rules=RULES) as first,
        FakeEngine(models=["up"], rules=RULES) as second,
        FakeEngine(models=["up"]) as third,
        serving(tmp_path, two_and_a_fallback(first.url, second.url, third.url, defaults=timeouts)) as served,
    ):
        streams = [await _occupied(served, 0), await _occupied(served, 1)]
        answer = await served.post(CHAT, chat())
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "spare")
        await _freed(*streams)
        await rest(served)


async def test_a_full_queue_is_told_by_its_status_though_there_is_a_heartbeat(tmp_path: Path) -> None:
    text = config("{url}", model="heartbeat: 20ms, admission: {concurrency: 1, queue: 1}")
    async with (
        FakeEngine(models=["up"], rules=RULES) as engine,
        serving(tmp_path, text.replace("{url}", engine.url)) as served,
    ):
        streams = [asyncio.create_task(served.post(CHAT, chat("endless", stream=True)))]
        await until(lambda: backend(served).in_flight == 1, "the slot is taken")
        streams.append(asyncio.create_task(served.post(CHAT, chat("endless", stream=True))))
        await until(lambda: served.metric("gateway_requests_queued") == 1, "the queue is full")
        answer = await served.post(CHAT, chat(stream=True))
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        await _freed(*streams)
        await rest(served)


async def test_a_launched_engine_that_does_not_listen_is_waited_for(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        one = backend(served)
        one.residence = Residence("a", Here(None))
        await engine.down()
        waiting = asyncio.create_task(served.post(CHAT, chat()))
        await until(lambda: one.health is Health.LOADING, "it is taken to be starting")
        await engine.up()
        answer = await waiting
        assert answer.status == 200
        await rest(served)


async def test_an_error_that_was_tried_once_may_be_tried_again_by_the_client(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"reply": {"status": 500}}) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        answer = await served.post(CHAT, chat())
        assert answer.status == 502
        assert "x-should-retry" not in answer.headers
        assert "model 'm' at backend 'engine-0'" in answer.error["message"]


async def test_a_refused_connection_starts_a_probe_and_the_probe_a_trial(tmp_path: Path) -> None:
    text = config("{url}", defaults="breaker: {failures: 1, pause: 5m}")
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, text.replace("{url}", engine.url)) as served,
    ):
        one = backend(served)
        await engine.down()
        assert (await served.post(CHAT, chat())).status == 502
        now = asyncio.get_running_loop().time
        assert one.breaker.state(now()) is State.OPEN
        await engine.up()
        one.woken.set()
        await until(lambda: one.breaker.state(now()) is State.HALF_OPEN, "the probe ends the pause")
        for _ in range(2):
            assert (await served.post(CHAT, chat())).status == 200
        assert one.breaker.state(now()) is State.CLOSED
        for state in State.OPEN, State.CLOSED:
            assert served.metric("gateway_breaker_transitions_total", state=state.value) == 1
        assert served.metric("gateway_breaker_transitions_total", state=State.HALF_OPEN.value) == 2


async def test_a_trial_ends_with_the_first_content_of_a_long_stream(tmp_path: Path) -> None:
    text = config("{url}", defaults="breaker: {failures: 1, pause: 100ms, longest: 100ms}")
    async with (
        FakeEngine(models=["up"], rules=RULES) as engine,
        serving(tmp_path, text.replace("{url}", engine.url)) as served,
    ):
        one = backend(served)
        one.breaker.failed(False, asyncio.get_running_loop().time())
        assert one.breaker.open
        await until(lambda: one.breaker.allows(asyncio.get_running_loop().time()), "a trial may pass")
        streams = []
        for number in range(2):
            assert one.breaker.open
            streams.append(asyncio.create_task(served.post(CHAT, chat("endless", stream=True))))
            await until(lambda: one.answering == len(streams), f"content of stream {number}")
        assert not one.breaker.open, "both streams run, and the breaker is closed"
        await _freed(*streams)
        await rest(served)


async def test_a_wait_in_the_engines_own_queue_is_not_held_against_it(tmp_path: Path) -> None:
    """A burst on an engine with one slot: the first gets its tokens, the others reach the limit for theirs."""
    text = config("{url}", defaults="timeouts: {first_token: 200ms}, breaker: {failures: 1}")
    async with (
        FakeEngine(models=["up"], slots=1, rules=RULES) as engine,
        serving(tmp_path, text.replace("{url}", engine.url)) as served,
    ):
        stream = asyncio.create_task(served.post(CHAT, chat("endless", stream=True)))
        await until(lambda: backend(served).answering == 1, "the first one is answered")
        answers = await asyncio.gather(*(served.post(CHAT, chat(f"n{n}", stream=True)) for n in range(5)))
        assert {answer.status for answer in answers} == {504}
        assert not backend(served).breaker.open
        await _freed(stream)
        engine.set(models=["up"], slots=1, defaults={"first_token": 60.0})
        for number in range(2):
            assert (await served.post(CHAT, chat(f"silence {number}", stream=True))).status == 504
        assert backend(served).breaker.open, "an engine that answers nobody is to blame"
        engine.set(models=["up"])

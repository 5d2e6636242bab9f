"""What the gateway does about faults over time: bounded retries, rests, breakers, loading models, queues."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from tests.faults.clients import until
from tests.faults.support import CONFIG, FAULTY, HEALTHY, Stage, asked, question, stage, text_of
from tests.serving import Answer, Served, serving

PATIENT = CONFIG.replace("failures: 2", "failures: 1000")
FIVE = CONFIG.replace("failures: 2, pause: 30s", "failures: 5, pause: 30s")
SHORT = CONFIG.replace("failures: 2, pause: 30s", "failures: 5, pause: 200ms")
HANG: dict[str, Any] = {"faults": [{"at": "request", "do": "hang"}]}
BUSY: dict[str, Any] = {"first_token": 0.8, "reply": {"status": 503}}
CHAT = "/v1/chat/completions"
THREE = """
defaults: {{retry: {{attempts: 3}}}}
models: {{m: {{targets: {{a: m, b: m, c: m}}}}}}
backends:
  a: {{engine: openai, url: "{a}", models: [m]}}
  b: {{engine: openai, url: "{b}", models: [m]}}
  c: {{engine: openai, url: "{c}", models: [m]}}
"""
ONE_AT_A_TIME = """
models:
  alone: {{targets: {{up: m}}, admission: {{concurrency: 1, queue: {queue_size}}}, timeouts: {{queue: {queue}}}}}
backends: {{up: {{engine: openai, url: "{url}", models: [m]}}}}
"""


async def test_attempts_share_one_deadline(tmp_path: Path) -> None:
    async with stage(tmp_path, clocks="first_byte: 250ms, total: 500ms", config=PATIENT) as at:
        at.misbehave(**HANG)
        at.healthy.set(rules=[HANG])
        answer = await at.ask("pair", stream=True)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
        assert answer.headers["x-should-retry"] == "false"
        assert at.attempts(result="timeout") == at.attempts("healthy", result="timeout") == 1


async def test_retries_do_not_multiply_an_outage(tmp_path: Path) -> None:
    """Every request may fail over once; more attempts come out of one budget."""
    async with (
        FakeEngine(models=["m"], rules=[BUSY]) as first,
        FakeEngine(models=["m"], rules=[BUSY]) as second,
        FakeEngine(models=["m"], rules=[BUSY]) as third,
        serving(tmp_path, THREE.format(a=first.url, b=second.url, c=third.url)) as served,
    ):
        answers = await asyncio.gather(*(served.post(CHAT, question("m")) for _ in range(60)))
        assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "overloaded")}
        attempts = sum(served.metric("gateway_attempts_total", backend=name) for name in "abc")
        assert 120 < attempts <= 120 + 60 * 0.25


@pytest.mark.parametrize(
    ("headers", "told", "rest"),
    [
        ({}, "1", 5),
        ({"retry-after": "20"}, "20", 20),
        ({"retry-after": "0"}, "1", 0),
        ({"retry-after": "-5"}, "1", 5),
        ({"retry-after": "1000000000"}, "60", 60),
        ({"retry-after": "soon"}, "1", 5),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, "30", 30),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, "1", 5),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_an_engine_that_asks_for_a_rest_gets_it(
    status: int, headers: dict[str, str], told: str, rest: float, tmp_path: Path
) -> None:
    async with stage(tmp_path) as at:
        at.misbehave(reply={"status": status, "headers": headers})
        answer = await at.ask("alone")
        now = asyncio.get_running_loop().time()
        assert (answer.status, answer.headers["retry-after"]) == (503, told)
        breaker = at.backend().breaker
        assert breaker.allows(now + rest)
        assert not breaker.open
        if rest:
            assert not breaker.allows(now + rest - 4.5)
            at.misbehave()
            for _ in range(4):
                rested = await at.ask("pair")
                assert (text_of(rested), rested.headers["x-gateway-attempts"]) == (HEALTHY, "1")
            assert asked(at.faulty, "pair") == []
            assert text_of(await at.ask("alone")) == FAULTY


async def test_a_trailer_asks_for_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        trailers = {"framing": "chunked", "trailers": {"retry-after": "50"}}
        at.misbehave(reply={"status": 429}, http=trailers)
        assert (await at.ask("alone")).headers["retry-after"] == "1"
        assert at.backend().breaker.allows(asyncio.get_running_loop().time() + 5)


async def test_after_five_failures_the_other_takes_all(tmp_path: Path) -> None:
    async with stage(tmp_path, config=FIVE) as at:
        at.misbehave(reply={"status": 500})
        while not at.backend().breaker.open:
            assert text_of(await at.ask("pair")) == HEALTHY
        assert len(asked(at.faulty, "pair")) == 5
        for stream in (False, True) * 4:
            answer = await at.ask("pair", stream=stream)
            assert (text_of(answer), answer.headers["x-gateway-attempts"]) == (HEALTHY, "1")
        assert len(asked(at.faulty, "pair")) == 5
        assert at.backend().health is Health.READY


async def test_probes_bring_it_back_slowly(tmp_path: Path) -> None:
    async with stage(tmp_path, config=SHORT) as at:
        at.misbehave(reply={"status": 500})
        while not at.backend().breaker.open:
            await at.ask("pair")
        at.misbehave()
        async with asyncio.timeout(10):
            while at.backend().breaker.open:
                assert text_of(await at.ask("pair")) in (FAULTY, HEALTHY)
        assert await _share(at, 20) <= 4, "it starts with a small part of the requests"
        at.backend().slow_start = 0.001
        await at.ask("pair")
        assert await _share(at, 20) in (9, 10, 11)


async def _share(at: Stage, requests: int) -> int:
    """How many of so many requests the faulty engine gets."""
    answers = [text_of(await at.ask("pair")) for _ in range(requests)]
    assert set(answers) <= {FAULTY, HEALTHY}
    return answers.count(FAULTY)


async def test_an_engine_that_was_down_starts_slowly(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        assert await _share(at, 20) == 10
        for _ in range(3):
            at.backend().note(Health.DOWN)
            assert await _share(at, 10) == 0
            at.backend().note(Health.READY)
            assert await _share(at, 20) <= 4


async def test_a_model_is_never_without_a_backend(tmp_path: Path) -> None:
    async with stage(tmp_path, config=FIVE) as at:
        for engine in (at.faulty, at.healthy):
            engine.set(rules=[{"faults": [{"at": "request", "do": "close"}]}])
        number = 0
        while not (at.backend().breaker.open and at.backend("healthy").breaker.open):
            # Each request is another one: a single one that fails everywhere is taken to be the reason itself.
            assert (await at.ask("pair", seed=number)).error["code"] == "upstream_reset"
            number += 1
        assert number == 5
        at.misbehave()
        at.healthy.set(defaults={"say": HEALTHY})
        assert text_of(await at.ask("pair")) in (FAULTY, HEALTHY)
        assert text_of(await at.ask("alone")) == FAULTY


async def test_a_backend_thought_to_be_down_is_the_last_resort(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.backend().note(Health.DOWN)
        at.backend("healthy").note(Health.DOWN)
        assert text_of(await at.ask("alone")) == FAULTY


async def test_the_slow_one_gets_less(tmp_path: Path) -> None:
    async with stage(tmp_path, config=CONFIG.replace("balance: round_robin", "balance: least_loaded")) as at:
        at.misbehave(first_token=0.2)
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(_ask_ten_times(at))
        assert len(asked(at.faulty, "pair")) <= 15
        assert len(asked(at.healthy, "pair")) >= 25


async def _ask_ten_times(at: Stage) -> None:
    for _ in range(10):
        assert (await at.ask("pair")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loading_model_is_waited_for(stream: bool, tmp_path: Path) -> None:
    async with stage(tmp_path, engine="llamacpp", clocks="queue: 5s") as at:
        at.faulty.set(loading=60, defaults={"say": FAULTY})
        assert at.backend().health is Health.READY
        answer = await at.ask("pair", stream=stream)
        assert text_of(answer) == HEALTHY
        assert at.backend().health is Health.LOADING
        at.faulty.set(loading=0.4, defaults={"say": FAULTY})
        waiting = [asyncio.create_task(at.ask("alone", stream=stream)) for _ in range(3)]
        for answer in await asyncio.gather(*waiting):
            assert (text_of(answer), answer.headers["x-gateway-attempts"]) == (FAULTY, "1")
        assert not at.backend().breaker.open
        assert at.attempts(result="ok") == 3


async def test_a_model_that_loads_too_long_is_not_waited_for(tmp_path: Path) -> None:
    async with stage(tmp_path, engine="llamacpp", clocks="queue: 300ms") as at:
        at.faulty.set(loading=60, defaults={"say": FAULTY})
        answer = await at.ask("alone")
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        assert "retry-after" in answer.headers
        assert at.outcomes("alone", "overloaded") == 1


async def test_a_model_that_loads_behind_a_ready_probe_is_asked_seldom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, engine="llamacpp", clocks="queue: 1s") as at:
        loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
        at.misbehave(reply={"status": 503, "body": loading})
        answer = await at.ask("alone")
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        assert 2 <= len(asked(at.faulty, "alone")) <= 6
        assert sum("loading its model" in record.getMessage() for record in caplog.records) == 1


async def test_who_waits_is_served_in_order(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"], defaults={"first_token": 0.05}) as engine:
        text = ONE_AT_A_TIME.format(url=engine.url, queue_size=10, queue="20s")
        async with serving(tmp_path, text) as served:
            tasks: list[asyncio.Task[Answer]] = []
            for number in range(6):
                body = question("alone", user=str(number))
                tasks.append(asyncio.create_task(served.post("/v1/chat/completions", body)))
                await until(lambda: _seen(served, engine) > number, "it waits or runs")  # noqa: B023
            assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 6
            assert [request.json()["user"] for request in asked(engine, "alone")] == list("012345")


def _seen(served: Served, engine: FakeEngine) -> float:
    """Return requests that wait or that the engine has got."""
    return served.metric("gateway_requests_queued") + len(asked(engine, "alone"))


async def test_the_queue_is_bounded_in_length_and_time(tmp_path: Path) -> None:
    async with FakeEngine(
        models=["m"], rules=[{"match": {"times": 1}, "faults": [{"at": "event 3", "do": "hang"}]}]
    ) as engine:
        text = ONE_AT_A_TIME.format(url=engine.url, queue_size=1, queue="500ms")
        async with serving(tmp_path, text) as served:

            async def ask() -> Answer:
                return await served.post("/v1/chat/completions", question("alone", stream=True))

            running = asyncio.create_task(ask())
            await engine.until(lambda: len(asked(engine, "alone")) == 1)
            waiting = asyncio.create_task(ask())
            await until(lambda: served.metric("gateway_requests_queued", model="alone") == 1, "it waits")
            full, late = await ask(), await waiting
            assert (full.status, full.error["code"]) == (503, "queue_full")
            assert (late.status, late.error["code"]) == (503, "queue_timeout")
            assert "retry-after" in full.headers and "retry-after" in late.headers
            assert len(asked(engine, "alone")) == 1
            await engine.down()
            assert not (await running).whole
            await engine.up()
            assert (await ask()).status == 200

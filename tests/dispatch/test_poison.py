"""A request that makes every engine fail harms nobody but its sender: no backend is ejected, no other client notices.

The engines of these tests answer each request but those with the word "poison" in them, which they fail or die of.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.base import Call, Failure, Kind, Request, RequestError
from backends.engines.openai import OpenAI
from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, chat, config, rest, until
from tests.serving import Served, serving

POISON = "poison in this one"
KILLS: dict[str, Any] = {"match": {"contains": POISON}, "faults": [{"at": "request", "do": "reset"}]}
WAYS: dict[str, dict[str, Any]] = {
    "500": {"reply": {"status": 500}},
    "garbled": {"reply": {"status": 200, "body": "not JSON"}},
    "reset": {"faults": [{"at": "request", "do": "reset"}]},
    "closed": {"faults": [{"at": "request", "do": "close"}]},
    "broken off": {"faults": [{"at": "event 2", "do": "reset"}]},
}


@asynccontextmanager
async def gateway(
    folder: Path,
    engines: int,
    way: dict[str, Any],
    balance: str = "least_loaded",
    extra: str = "",
    kind: str = "openai",
) -> AsyncIterator[tuple[Served, list[FakeEngine]]]:
    """Yield a gateway with one model on so many engines, which fail a poisoned request in the given way."""
    async with AsyncExitStack() as stack:
        running = []
        for _ in range(engines):
            rules = [{"match": {"contains": POISON}, **way}]
            engine = FakeEngine(models=["up"], rules=rules, defaults={"tokens": 6, "gap": 0.002})
            running.append(await stack.enter_async_context(engine))
        text = config(
            *(engine.url for engine in running),
            model=f"balance: {balance}",
            extra=extra,
            kind=kind,
        )
        served = await stack.enter_async_context(serving(folder, text))
        yield served, running
        await rest(served)


def breakers(served: Served) -> list[bool]:
    return [backend.breaker.open for backend in served.gateway.pool.backends.values()]


@pytest.mark.parametrize("balance", ["least_loaded", "round_robin"])
@pytest.mark.parametrize("engines", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
async def test_ten_clients_of_which_one_is_poison(
    way: str, engines: int, balance: str, tmp_path: Path
) -> None:
    async with gateway(tmp_path, engines, WAYS[way], balance) as (served, _):

        async def good(number: int) -> None:
            for turn in range(12):
                answer = await served.post(CHAT, chat(f"client {number} turn {turn}", stream=turn % 2 == 0))
                assert (answer.status, answer.whole) == (200, True)

        async def poison() -> None:
            for _ in range(12):
                answer = await served.post(CHAT, chat(POISON, stream=True))
                if way == "broken off":
                    assert (answer.status, answer.whole) == (200, False)
                    continue
                assert answer.status == 502
                final = answer.headers.get("x-should-retry") == "false"
                assert final == (engines > 1), "what was tried at two backends is final"

        await asyncio.gather(poison(), *(good(number) for number in range(9)))
        assert breakers(served) == [False] * engines
        attempts = served.metric("gateway_attempts_total") - served.metric(
            "gateway_attempts_total", result="ok"
        )
        assert attempts == 12 * (1 if way == "broken off" else min(engines, 2)), "never tried a third time"


@pytest.mark.parametrize("engines", [2, 3])
async def test_an_answer_that_breaks_off_while_it_is_gathered_ejects_nobody(
    engines: int, tmp_path: Path
) -> None:
    """llama.cpp is asked for a stream. Its first content does not tell yet that the request can be served."""
    way = WAYS["broken off"]
    async with gateway(tmp_path, engines, way, "round_robin", kind="llamacpp") as (served, _):
        for _ in range(12):
            answer = await served.post(CHAT, chat(POISON))
            assert (answer.status, answer.headers.get("x-should-retry")) == (502, "false")
        assert breakers(served) == [False] * engines
        assert served.metric("gateway_attempts_total") == 24, "never tried a third time"


async def test_it_counts_where_another_backend_serves_the_same_request(tmp_path: Path) -> None:
    async with gateway(tmp_path, 2, WAYS["500"], "round_robin") as (served, running):
        running[1].set(models=["up"], rules=[])
        while not breakers(served)[0]:
            assert (await served.post(CHAT, chat(POISON))).status == 200
        assert breakers(served) == [True, False]
        counted = served.metric("gateway_failovers_total", backend="engine-0", reason="failed")
        assert counted == served.metric("gateway_attempts_total", backend="engine-0", result="failed") == 5
        assert served.metric("gateway_breaker_transitions_total", backend="engine-0", state="open") == 1


async def test_it_counts_before_the_other_backends_answer_has_ended(tmp_path: Path) -> None:
    """The first content of a stream is enough to know that the request is sound."""
    async with gateway(tmp_path, 2, WAYS["500"]) as (served, running):
        running[1].set(models=["up"], rules=[], defaults={"endless": True, "gap": 0.01})
        backend = served.gateway.pool.backends["engine-0"]
        served.gateway.pool.backends["engine-1"].in_flight += 1  # so that the failing one is asked first
        stream = asyncio.create_task(served.post(CHAT, chat(POISON, stream=True)))
        await until(lambda: backend.breaker._in_a_row == 1, "the failure is counted while the stream runs")
        assert not stream.done()
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        served.gateway.pool.backends["engine-1"].in_flight -= 1
        running[1].set(models=["up"])


async def test_different_requests_that_fail_alone_open_a_breaker(tmp_path: Path) -> None:
    async with gateway(tmp_path, 1, WAYS["500"]) as (served, _):
        for number in range(5):
            assert breakers(served) == [False]
            assert (await served.post(CHAT, chat(f"{POISON} {number}"))).status == 502
        assert breakers(served) == [True]


class Picky(OpenAI):
    """An adapter that refuses requests for two choices, without asking its engine."""

    def call(self, request: Request, model: str) -> Call:
        if b'"n"' in request.body:
            raise RequestError(Failure(Kind.UNSUPPORTED, "one choice only"))
        return super().call(request, model)


async def test_what_an_adapter_refuses_is_no_success_of_its_engine(tmp_path: Path) -> None:
    async with gateway(tmp_path, 1, WAYS["500"]) as (served, _):
        served.gateway.pool.backends["engine-0"].change_engine(Picky())
        for number in range(5):
            assert (await served.post(CHAT, chat() | {"n": 2})).status == 400
            assert breakers(served) == [False]
            assert (await served.post(CHAT, chat(f"{POISON} {number}"))).status == 502
        assert breakers(served) == [True]
        served.gateway.pool.backends["engine-0"].breaker.halve()
        for _ in range(3):
            assert (await served.post(CHAT, chat() | {"n": 2})).status == 400
        assert breakers(served) == [True]


VLLM_500 = {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}}
VLLM_DEAD = {
    "error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
}


@pytest.mark.parametrize(("said", "opens"), [(VLLM_500, False), (VLLM_DEAD, True)], ids=["well", "dead"])
@pytest.mark.parametrize("engines", [1, 2])
async def test_what_an_engine_fails_though_it_is_well_opens_no_breaker(
    engines: int, said: dict[str, Any], opens: bool, tmp_path: Path
) -> None:
    """Different requests, each failed everywhere: vLLM answers 500 to much that is wrong with a request."""
    way = {"reply": {"status": 500, "body": json.dumps(said)}}
    async with gateway(tmp_path, engines, way, kind="vllm") as (served, _):
        for number in range(6):
            assert (await served.post(CHAT, chat(f"{POISON} {number}"))).status >= 500
        assert breakers(served) == [opens] * engines


async def test_what_an_engine_fails_though_it_is_well_counts_where_another_one_can(tmp_path: Path) -> None:
    way = {"reply": {"status": 500, "body": json.dumps(VLLM_500)}}
    async with gateway(tmp_path, 2, way, "round_robin", kind="vllm") as (served, running):
        running[1].set(models=["up"], rules=[])
        while not breakers(served)[0]:
            assert (await served.post(CHAT, chat(POISON))).status == 200
        assert breakers(served) == [True, False]


FALLBACK = """
  spare: {{targets: {{engine-2: up}}}}
"""


async def test_where_every_engine_fails_every_request_the_fallback_takes_over(tmp_path: Path) -> None:
    """Two broken engines are not five poisoned requests: after as many as open a breaker, the fallback serves."""
    async with (
        FakeEngine(models=["up"], defaults={"reply": {"status": 500}}) as first,
        FakeEngine(models=["up"], defaults={"reply": {"status": 500}}) as second,
        FakeEngine(models=["up"], defaults={"say": "of the spare"}) as third,
    ):
        text = config(first.url, second.url, third.url, model="fallback: [spare]", extra=FALLBACK.format())
        text = text.replace(", engine-2: up}, fallback", "}, fallback")
        async with serving(tmp_path, text) as served:
            statuses = [(await served.post(CHAT, chat(f"turn {number}"))).status for number in range(8)]
            assert statuses == [502] * 5 + [200] * 3
            assert breakers(served) == [True, True, False]
            await rest(served)


async def test_a_poisoned_request_is_not_sent_to_the_fallback(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[KILLS]) as first,
        FakeEngine(models=["up"], rules=[KILLS]) as second,
        FakeEngine(models=["up"]) as third,
    ):
        text = config(first.url, second.url, third.url, model="fallback: [spare]", extra=FALLBACK.format())
        text = text.replace(", engine-2: up}, fallback", "}, fallback")
        async with serving(tmp_path, text) as served:
            answer = await served.post(CHAT, chat(POISON))
            assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
            assert answer.headers["x-should-retry"] == "false"
            assert not any(POISON in request.text for request in third.requests)
            await rest(served)


async def test_a_request_that_two_engines_died_of_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(tmp_path, 1, KILLS) as (served, [engine]):
        backend = served.gateway.pool.backends["engine-0"]
        for _ in range(2):
            assert (await served.post(CHAT, chat(POISON))).status == 502
            await engine.down()
            assert (await served.post(CHAT, chat("is it there?"))).status in (502, 503)
            await engine.up()
            await until(lambda: backend.usable, "the engine is back")
        sent = len(engine.requests)
        answer = await served.post(CHAT, chat(POISON))
        assert (answer.status, answer.error["code"]) == (400, "request_refused")
        assert len(engine.requests) == sent
        assert "is refused for" in caplog.text and "'engine-0' and 'engine-0'" in caplog.text
        assert POISON not in caplog.text
        assert (await served.post(CHAT, chat("another one"))).status == 200


@asynccontextmanager
async def dying(engines: list[FakeEngine]) -> AsyncIterator[list[FakeEngine]]:
    """Let each engine die when it has read a poisoned request. Yields the engines that died, in order."""
    dead: list[FakeEngine] = []

    async def watch(engine: FakeEngine) -> None:
        await engine.until(lambda: any(POISON in request.text for request in engine.requests))
        dead.append(engine)
        await engine.down()

    tasks = [asyncio.create_task(watch(engine)) for engine in engines]
    yield dead
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("warm", [True, False], ids=["kept connections", "new connections"])
async def test_a_request_that_engines_die_of_kills_two_at_most(warm: bool, tmp_path: Path) -> None:
    async with (
        gateway(tmp_path, 4, {"faults": [{"at": "request", "do": "hang"}]}) as (served, running),
        dying(running) as dead,
    ):
        for number in range(8 if warm else 0):
            assert (await served.post(CHAT, chat(f"sound {number}"))).status == 200
        answer = await served.post(CHAT, chat(POISON))
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert answer.headers["x-should-retry"] == "false"
        assert len(dead) == 2
        deaths = served.gateway.core.dispatcher.quarantine.deaths
        await until(lambda: [death.confirmed for death in deaths] == [True, True], "probes find them gone")
        again = await served.post(CHAT, chat(POISON))
        assert (again.status, again.error["code"]) == (400, "request_refused")
        assert len(dead) == 2
        assert (await served.post(CHAT, chat("a sound one"))).status == 200
        for engine in dead:
            await engine.up()


async def test_an_engine_that_only_breaks_off_has_not_died(tmp_path: Path) -> None:
    async with gateway(tmp_path, 1, KILLS) as (served, _):
        for _ in range(5):
            assert (await served.post(CHAT, chat(POISON))).error["code"] == "upstream_reset"
            assert (await served.post(CHAT, chat("a sound one"))).status == 200

"""A second attempt beside a slow first one: one of them serves, the other is dropped, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.balance.hedging import ENOUGH
from gateway.dispatch.hedge import Race
from gateway.dispatch.journey import Journey
from gateway.fake.engine import FakeEngine
from gateway.telemetry.timeline import HOPS
from gateway.wire.relay import Attempt
from tests.faults.clients import CHAT, chat, client, config, http, rest, said, until
from tests.serving import Answer, Served, serving

HEDGE = "balance: round_robin, hedge: {after: 30ms, budget: 100%}"
FOREVER = {"first_token": 30.0}
A, B = {"say": "from a"}, {"say": "from b"}


@dataclass
class Stage:
    """A gateway between two engines; the first request goes to `a`."""

    served: Served
    a: FakeEngine
    b: FakeEngine

    def behave(self, a: dict[str, Any], b: dict[str, Any]) -> None:
        self.a.set(rules=[{**A, **a}])
        self.b.set(rules=[{**B, **b}])

    async def ask(self, stream: bool = True, **more: Any) -> Answer:
        return await self.served.post(CHAT, chat(stream=stream, **more))

    def hedges(self, result: str) -> float:
        return self.served.metric("gateway_hedges_total", model="m", result=result)

    def attempts(self, backend: int, result: str) -> float:
        return self.served.metric("gateway_attempts_total", backend=f"engine-{backend}", result=result)

    def know(self, *, stream: bool, seconds: float = 0.001) -> None:
        """Let the model's answers be known to begin after so long."""
        hedging = self.served.gateway._state._hedging["m"]
        for _ in range(ENOUGH):
            hedging.observe("chat", stream, seconds)

    def journey(self) -> Journey:
        """Return the journey of the only request."""
        [exchange] = self.served.gateway.core.register.running
        assert isinstance(exchange.work, Journey)
        return exchange.work

    async def both_run(self) -> tuple[Attempt, Attempt, Race]:
        """Wait until both engines have the only request; return its attempts."""
        await until(lambda: bool(asked(self.a) and asked(self.b)), "both have the request")
        journey = self.journey()
        race, first = journey._race, journey._attempt
        assert race is not None and first is not None and race._second is not None
        return first, race._second, race


def asked(engine: FakeEngine) -> list[Any]:
    return [request for request in engine.requests if request.path == CHAT]


@contextlib.asynccontextmanager
async def staged(folder: Path, model: str = HEDGE, defaults: str = "") -> AsyncIterator[Stage]:
    async with (
        FakeEngine(models=["up"]) as a,
        FakeEngine(models=["up"]) as b,
        serving(folder, config(a.url, b.url, model=model, defaults=defaults)) as served,
    ):
        yield Stage(served, a, b)
        await rest(served)
        for backend in served.gateway.pool.backends.values():
            assert backend.answering == 0


@pytest.fixture(params=[True, False], ids=["stream", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_the_second_answers_first(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=stream)
        stage.behave(FOREVER, {})
        answer = await stage.ask(stream)
        assert (answer.status, answer.whole) == (200, True)
        assert b"from b" in answer.body.replace(b'"},"finish', b"") or said(answer) == "from b"
        assert answer.headers["x-gateway-backend"] == "engine-1"
        assert answer.headers["x-gateway-attempts"] == "2"
        assert answer.headers["x-gateway-hedged"] == "won"
        await stage.a.until(lambda: asked(stage.a)[0].outcome == "aborted")
        assert (stage.hedges("won"), stage.hedges("lost")) == (1, 0)
        assert (stage.attempts(0, "cancelled"), stage.attempts(1, "ok")) == (1, 1)
        served = stage.served
        assert served.metric("gateway_requests_total", backend="engine-1", outcome="ok") == 1
        assert served.metric("gateway_requests_total") == 1
        assert served.metric("gateway_failovers_total") == 0
        breaker = served.gateway.pool.backends["engine-0"].breaker
        assert not breaker._recent, "neither a success nor a failure"


async def test_the_first_answers_after_all(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=stream)
        stage.behave({"first_token": 0.3}, FOREVER)
        answer = await stage.ask(stream)
        assert (answer.status, answer.whole) == (200, True)
        assert answer.headers["x-gateway-backend"] == "engine-0"
        assert answer.headers["x-gateway-attempts"] == "1"
        assert answer.headers["x-gateway-hedged"] == "lost"
        await stage.b.until(lambda: asked(stage.b)[0].outcome == "aborted")
        assert (stage.hedges("won"), stage.hedges("lost")) == (0, 1)
        assert (stage.attempts(0, "ok"), stage.attempts(1, "cancelled")) == (1, 1)
        assert not stage.served.gateway.pool.backends["engine-1"].breaker._recent


RESET = {"faults": [{"at": "request", "do": "reset"}]}


async def test_the_second_dies(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=stream)
        stage.behave({"first_token": 0.3}, RESET)
        answer = await stage.ask(stream)
        assert (answer.status, answer.whole) == (200, True)
        assert answer.headers["x-gateway-backend"] == "engine-0"
        assert "x-gateway-hedged" not in answer.headers
        assert stage.hedges("failed") == 1
        assert (stage.attempts(0, "ok"), stage.attempts(1, "reset")) == (1, 1)
        # Another backend served the request, so the failure counts.
        [piece] = stage.served.gateway.pool.backends["engine-1"].breaker._recent
        assert piece.bad == 1


async def test_the_first_dies_while_the_second_is_slow(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=stream)
        stage.behave(FOREVER, {"first_token": 0.3})
        asking = asyncio.create_task(stage.ask(stream))
        first, _, _ = await stage.both_run()
        assert first._connection is not None
        first._connection.abort()
        answer = await asking
        assert (answer.status, answer.whole) == (200, True)
        assert answer.headers["x-gateway-backend"] == "engine-1"
        assert answer.headers["x-gateway-hedged"] == "won"
        assert stage.hedges("won") == 1
        assert (stage.attempts(0, "reset"), stage.attempts(1, "ok")) == (1, 1)
        assert stage.served.metric("gateway_failovers_total", backend="engine-0", reason="reset") == 1


async def test_both_die(tmp_path: Path, stream: bool) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=stream)
        stage.behave(FOREVER, FOREVER)
        asking = asyncio.create_task(stage.ask(stream))
        first, second, _ = await stage.both_run()
        for attempt in (second, first):
            assert attempt._connection is not None
            attempt._connection.abort()
        answer = await asking
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert stage.hedges("failed") == 1
        assert (len(asked(stage.a)), len(asked(stage.b))) == (1, 1), (
            "the request is to blame: no third attempt"
        )
        assert stage.served.metric("gateway_requests_total", outcome="upstream_error") == 1


async def test_both_die_the_first_one_first(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.behave(FOREVER, FOREVER)
        asking = asyncio.create_task(stage.ask())
        for attempt in (await stage.both_run())[:2]:
            assert attempt._connection is not None
            attempt._connection.abort()
        answer = await asking
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert (len(asked(stage.a)), len(asked(stage.b))) == (1, 1)


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_the_client_leaves_while_both_run(tmp_path: Path, how: str) -> None:
    async with staged(tmp_path) as stage, client(stage.served.port) as caller:
        stage.behave(FOREVER, FOREVER)
        await caller.send(http(chat(stream=True)))
        await stage.both_run()
        caller.leave(how)
        for engine in (stage.a, stage.b):
            await engine.until(lambda: asked(engine)[0].outcome == "aborted")  # noqa: B023 (it is awaited)
        await rest(stage.served)
        assert stage.hedges("cancelled") == 1
        assert stage.served.metric("gateway_requests_total", outcome="client_gone") == 1


async def test_the_gateway_stops_while_both_run(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.behave(FOREVER, FOREVER)
        asking = asyncio.create_task(stage.ask())
        await stage.both_run()
        stage.served.server.stop()
        stage.served.server.on_signal()
        assert (await asking).status == 503
        assert stage.hedges("cancelled") == 1


def event(text: str) -> bytes:
    payload = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()
    chunk = b"%x\r\n%b\r\n" % (len(payload), payload)
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + chunk


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "second"])
async def test_both_answer_in_the_same_turn(tmp_path: Path, order: tuple[int, int]) -> None:
    """The one whose bytes are read first serves; of the other no byte gets through."""
    async with staged(tmp_path) as stage:
        stage.behave(FOREVER, FOREVER)
        asking = asyncio.create_task(stage.ask())
        attempts = (await stage.both_run())[:2]
        connections = [attempt._connection for attempt in attempts]
        for index in order:
            connection = connections[index]
            assert connection is not None
            connection.data_received(event(f"by {index}"))
        stage.journey()._attempt._connection.abort()  # type: ignore[union-attr]
        answer = await asking
        assert answer.headers["x-gateway-backend"] == f"engine-{order[0]}"
        assert said_before_the_error(answer) == f"by {order[0]}"


def said_before_the_error(answer: Answer) -> str:
    return "".join(event["choices"][0]["delta"]["content"] for event in answer.events if "choices" in event)


async def test_a_stale_connection_of_the_second_is_replaced(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for _ in range(2):
            await stage.ask()
        await rest(stage.served)
        stage.a.set(rules=[{**A, **FOREVER}])
        stage.b.set(
            rules=[{"match": {"times": 1}, "faults": [{"at": "request", "do": "close"}]}, {**B}],
        )
        answer = await stage.ask()
        assert (answer.headers["x-gateway-backend"], said(answer)) == ("engine-1", "from b")
        assert stage.attempts(1, "reset") == 0


async def test_a_stale_connection_of_the_first_leaves_it_to_the_second(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for _ in range(2):
            await stage.ask()
        await rest(stage.served)
        stage.behave(FOREVER, {"first_token": 0.3})
        asking = asyncio.create_task(stage.ask())
        await until(lambda: len(asked(stage.b)) == 2, "both have it")
        first = stage.journey()._attempt
        assert first is not None and first._connection is not None and first._connection.reused
        first._connection.abort()
        answer = await asking
        assert answer.headers["x-gateway-backend"] == "engine-1"
        assert stage.attempts(0, "reset") == 0
        assert not [
            piece for piece in stage.served.gateway.pool.backends["engine-0"].breaker._recent if piece.bad
        ]


async def test_the_hops_of_a_request_that_the_second_serves_sum_to_its_total(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        spent: list[dict[str, int]] = []
        accounting = stage.served.gateway.core.dispatcher.accounting

        class Sink:
            def finished(self, exchange: Any) -> None:
                assert sum(exchange.timeline.spent) == exchange.timeline.total
                spent.append(dict(zip(HOPS, exchange.timeline.spent, strict=True)))
                accounting.finished(exchange)

        stage.served.gateway.core.sink = Sink()
        stage.behave(FOREVER, {"tokens": 3, "gap": 0.02})
        await stage.ask()
        assert spent[0]["first_byte"] >= 30_000_000, "it waited for the first engine"
        assert spent[0]["stream"] >= 20_000_000


async def test_there_is_none_where_the_other_backend_has_work(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.served.port) as other:
        stage.behave({"first_token": 0.3}, {})
        backend = stage.served.gateway.pool.backends["engine-1"]
        backend.in_flight += 1
        try:
            answer = await stage.ask()
        finally:
            backend.in_flight -= 1
        assert "x-gateway-hedged" not in answer.headers
        assert not asked(stage.b)
        assert other is not None


async def test_there_is_none_where_the_engine_of_the_other_backend_has_a_queue(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.behave({"first_token": 0.3}, {})
        backend = stage.served.gateway.pool.backends["engine-1"]
        now = asyncio.get_running_loop().time()
        backend.load.take({"waiting": (1.0, 0.0)}, (), 0, now)
        assert "x-gateway-hedged" not in (await stage.ask()).headers
        backend.load.take({"waiting": (0.0, 0.0)}, (), 0, now)
        for _ in range(2):
            answer = await stage.ask()
        assert answer.headers["x-gateway-hedged"] == "won"


async def test_there_is_none_beyond_the_budget(tmp_path: Path) -> None:
    model = "balance: round_robin, hedge: {after: 20ms, budget: 20%}"
    async with staged(tmp_path, model) as stage:
        stage.behave({"first_token": 0.1}, {})
        for _ in range(40):
            await stage.ask()
        # Every second request is slow; credit comes from all.
        hedged = sum(stage.hedges(result) for result in ("won", "lost"))
        assert 4 <= hedged <= 8
        assert len(asked(stage.b)) == 20 + hedged


async def test_a_whole_answer_waits_until_enough_is_known_of_such_answers(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.know(stream=True)
        stage.behave({"first_token": 0.1}, {})
        assert "x-gateway-hedged" not in (await stage.ask(stream=False)).headers
        assert not asked(stage.b)


async def test_a_model_that_says_nothing_of_it_is_not_hedged(tmp_path: Path) -> None:
    async with staged(tmp_path, "balance: round_robin") as stage:
        stage.behave({"first_token": 0.1}, {})
        assert (await stage.ask()).status == 200
        assert not asked(stage.b)


def cases(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield behaviours by a text that the request must hold."""
    rng = Random(seed)
    for number in range(12):
        behaviour: dict[str, Any] = {"first_token": rng.choice([0.0, 0.01, 0.03, 0.031, 0.05, 0.2])}
        place = rng.choice(["", "", "request", "headers", "event 0", "event 1", "event 2", "end"])
        if place:
            behaviour["faults"] = [
                {"at": place, "do": rng.choice(["close", "reset", "hang"]), "duration": None}
            ]
            if behaviour["faults"][0]["do"] != "hang":
                del behaviour["faults"][0]["duration"]
        yield f"case-{number}-", behaviour


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
async def test_whatever_the_engines_do_nothing_is_mixed_and_nothing_is_left(
    tmp_path: Path, seed: int
) -> None:
    """Sixty requests at once at two engines that are slow, die and hang at any place."""
    limits = "timeouts: {first_token: 1s, first_byte: 1s, idle: 1s, answer: 1s, connect: 10s, total: 2s}"
    limits += ", breaker: {failures: 1000}"
    async with staged(tmp_path, HEDGE, limits) as stage:
        stage.know(stream=False)
        for engine, name, salt in ((stage.a, "a", 0), (stage.b, "b", 100)):
            rules = [
                {"match": {"contains": text}, "say": f"from {name} alone", **behaviour}
                for text, behaviour in cases(seed + salt)
            ]
            engine.set(rules=rules, defaults={"say": f"from {name} alone"})
        rng = Random(seed)

        async def one(number: int) -> Answer:
            await asyncio.sleep(rng.random() * 0.3)
            if rng.random() < 0.15:
                async with client(stage.served.port) as caller:
                    await caller.send(http(chat(f"case-{number % 12}-", stream=True)))
                    await asyncio.sleep(rng.random() * 0.1)
                    caller.leave("RST")
                return Answer(0, {}, b"", False)
            return await stage.served.post(CHAT, chat(f"case-{number % 12}-", stream=rng.random() < 0.6))

        answers = await asyncio.gather(*(one(number) for number in range(60)))
        for answer in answers:
            assert not (b"from a" in answer.body and b"from b" in answer.body)
            text = answer.body.decode().replace('"', "")
            assert not ("a alone" in text and "b alone" in text)
            if answer.status == 200 and answer.whole and b"[DONE]" in answer.body:
                assert said(answer) in ("from a alone", "from b alone")
        await rest(stage.served)
        served = stage.served
        hedged = sum(stage.hedges(result) for result in ("won", "lost", "failed", "cancelled"))
        assert hedged > 0
        assert served.metric("gateway_requests_total") == 60
        for engine in (stage.a, stage.b):
            await until(lambda: engine.journal.totals.running == 0, "the engine rests")  # noqa: B023 (awaited)

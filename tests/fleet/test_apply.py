"""A config applied to a running gateway: what stays, what changes in place, what ends. Clients notice nothing.

Rules:
- Engines are fake ones behind real sockets, and the gateway is the real server.
- Nothing sleeps to be in time: streams last long enough to be looked at, and tests wait for states.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from gateway.fake.journal import Exchange
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import State
from tests.config.files import config as read
from tests.faults.clients import until
from tests.faults.support import question, sockets_closed, sound, text_of
from tests.serving import Answer, Served, idle, serving

SERVER = 'server: {listen: "127.0.0.1:0", drain: 5s}\n'


def text(models: str = "", defaults: str = "", keys: str = "", server: str = SERVER, **backends: str) -> str:
    """Return a config: each backend is the inside of its YAML map, `models` and `keys` whole sections."""
    lines = [f"  {name}: {{engine: openai, {inside}}}" for name, inside in backends.items()]
    return "\n".join([server, f"defaults: {{{defaults}}}", "backends:", *lines, models, keys])


@contextlib.asynccontextmanager
async def engines(count: int = 2) -> AsyncIterator[list[FakeEngine]]:
    """Run engines that serve `m`; each says its own number."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(sockets_closed())
        started = [await stack.enter_async_context(FakeEngine(models=["m"])) for _ in range(count)]
        for number, engine in enumerate(started):
            engine.set(defaults={"say": f"engine {number} says so"})
        yield started


def hold(engine: FakeEngine, model: str = "") -> None:
    """Have the engine's streams go on slowly, for about a second."""
    engine.set(rules=[{"match": {"contains": f"for-{model}"}, "gap": 0.1, "tokens": 8, "text": "count"}])


class Reload:
    """A gateway whose config changes."""

    def __init__(self, folder: Path, served: Served) -> None:
        self._folder = folder
        self.served = served
        self.gateway = served.gateway

    def apply(self, config: str) -> None:
        self.gateway.apply(read(self._folder, config))

    def backend(self, name: str) -> Backend:
        return self.gateway.pool.backends[name]

    def ask(self, model: str = "m", *, stream: bool = False) -> asyncio.Task[Answer]:
        call = self.served.post("/v1/chat/completions", question(model, stream=stream))
        return asyncio.create_task(call)

    async def streaming(self, engine: FakeEngine, model: str = "m") -> asyncio.Task[Answer]:
        """Ask for a stream, and wait until the engine has begun it."""
        before = len(chats(engine))
        task = self.ask(model, stream=True)
        await engine.until(lambda: [exchange.events for exchange in chats(engine)[before:]] > [0])
        return task

    async def settled(self) -> None:
        while any(
            backend.health in (None, Health.LOADING) for backend in self.gateway.pool.backends.values()
        ):
            await self.gateway.pool.change()

    async def gone(self) -> None:
        """Wait until backends that have left have ended."""
        await until(lambda: not self.gateway.fleet._leaving, "backends that have left have ended")


@contextlib.asynccontextmanager
async def reloading(folder: Path, config: str) -> AsyncIterator[Reload]:
    async with serving(folder, config) as served:
        yield Reload(folder, served)
        await sound(served)
        assert not served.gateway.fleet._leaving


def whole(answer: Answer) -> bool:
    """Tell whether a stream came to its proper end."""
    return (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")


def url(engine: FakeEngine, more: str = "") -> str:
    return f'url: "{engine.url}", models: [m]{more}'


async def test_the_same_config_again_touches_nothing(tmp_path: Path) -> None:
    async with engines() as (a, b):
        config = text(a=url(a), b=url(b))
        async with reloading(tmp_path, config) as at:
            await at.ask()
            kept = {
                name: (backend, backend.upstream, backend.breaker)
                for name, backend in at.gateway.pool.backends.items()
            }
            at.apply(config)
            for name, (backend, upstream, breaker) in kept.items():
                now = at.backend(name)
                assert now is backend and now.upstream is upstream and now.breaker is breaker
                assert now.health is Health.READY
            for _ in range(6):
                assert (await at.ask()).status == 200
            for engine in (a, b):
                assert len({exchange.connection for exchange in chats(engine)}) <= 1, "connections stay"
            assert at.served.metric("gateway_requests_total", outcome="ok") == 7


async def test_a_backend_that_is_added_serves_and_one_that_is_gone_does_not(tmp_path: Path) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(a=url(a))) as at:
        assert "engine 0" in text_of(await at.ask())
        at.apply(text(b=url(b)))
        assert list(at.gateway.pool.backends) == ["b"]
        for _ in range(3):
            assert "engine 1" in text_of(await at.ask())
        await at.gone()
        await until(lambda: a.journal.totals.open == 0, "its connections are closed")
        assert [view["name"] for view in (await at.served.get("/gateway/backends")).json()] == ["b"]
        page = (await at.served.get("/metrics")).body.decode()
        assert 'backend="a"' not in page and 'backend="b"' in page
        await at.settled()
        assert at.served.metric("gateway_backend_up", backend="b") == 1


async def test_a_backend_may_leave_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(a=url(a))) as at:
        hold(a)
        stream = await at.streaming(a)
        at.apply(text(b=url(b)))
        for _ in range(3):
            assert "engine 1" in text_of(await at.ask())
        assert not stream.done() and at.gateway.fleet._leaving
        assert whole(await stream)
        await at.gone()
        assert at.served.metric("gateway_requests_in_flight") == 0
        assert len(chats(a)) == 1


async def test_a_request_that_waits_when_its_backend_leaves_is_answered_all_the_same(tmp_path: Path) -> None:
    models = "models: {m: {targets: {a: m}, admission: {concurrency: 1, queue: 9}}}"
    async with engines() as (a, b), reloading(tmp_path, text(models, a=url(a))) as at:
        hold(a)
        stream = await at.streaming(a)
        waiting = [at.ask(stream=True) for _ in range(2)]
        await until(lambda: at.served.metric("gateway_requests_queued") == 2, "two wait")
        at.apply(text("models: {m: {targets: {b: m}}}", b=url(b)))
        assert "engine 1" in text_of(await at.ask())
        for task in (stream, *waiting):
            assert whole(await task)
        assert len(chats(a)) == 3
        await at.gone()


async def test_a_url_that_changes_moves_new_requests_and_lets_old_ones_finish(tmp_path: Path) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(x=url(a))) as at:
        hold(a)
        stream = await at.streaming(a)
        backend, breaker = at.backend("x"), at.backend("x").breaker
        at.apply(text(x=url(b)))
        assert at.backend("x") is backend and backend.breaker is not breaker
        assert backend.in_flight == 1, "its counters go on"
        assert "engine 1" in text_of(await at.ask())
        assert whole(await stream)
        await until(lambda: a.journal.totals.open == 0, "what is idle is closed")
        await at.settled()
        assert at.served.metric("gateway_backend_up", backend="x") == 1
        assert at.served.metric("gateway_requests_total", backend="x", outcome="ok") == 2


async def test_a_wrong_url_that_is_corrected_is_tried_at_once(tmp_path: Path) -> None:
    async with engines(1) as (a,):
        wrong = 'url: "http://127.0.0.1:9", models: [m]'
        async with reloading(tmp_path, text(defaults="breaker: {failures: 1}", x=wrong)) as at:
            assert (await at.ask()).status in (502, 503)
            assert at.backend("x").breaker.state(asyncio.get_running_loop().time()) is State.OPEN
            at.apply(text(defaults="breaker: {failures: 1}", x=url(a)))
            assert (await at.ask()).status == 200


async def test_headers_change_on_connections_that_stay(tmp_path: Path) -> None:
    async with (
        engines(1) as (a,),
        reloading(tmp_path, text(x=url(a, ", api_key: old, headers: {x-a: one}"))) as at,
    ):
        await at.ask()
        at.apply(text(x=url(a, ", api_key: new, headers: {x-b: two}")))
        await at.ask()
        first, second = (exchange.headers for exchange in chats(a))
        assert (first["authorization"], first["x-a"]) == ("Bearer old", "one")
        assert (second["authorization"], second["x-b"]) == ("Bearer new", "two")
        assert "x-a" not in second


async def test_models_and_timeouts_change_in_place(tmp_path: Path) -> None:
    async with engines(1) as (a,), reloading(tmp_path, text(x=f'url: "{a.url}", models: [m, n]')) as at:
        assert (await at.ask("n")).status == 200
        backend, upstream = at.backend("x"), at.backend("x").upstream
        a.set(rules=[{"first_token": 5.0}])
        at.apply(text(x=f'url: "{a.url}", models: [m], timeouts: {{first_token: 50ms}}'))
        assert (await at.ask("n")).status == 404
        assert (await at.ask("m", stream=True)).error["code"] == "upstream_timeout_first_byte"
        assert at.backend("x") is backend and backend.upstream is upstream
        at.apply(text(x=f'url: "{a.url}"'))
        assert [card.id for card in backend.models or ()] == ["m"], "until the engine was asked"
        a.set(rules=[])
        await until(lambda: at.gateway.core.snapshot.catalog.everything() == ["m"], "the engine was asked")
        assert (await at.ask("m")).status == 200


async def test_a_gate_grows_and_shrinks_while_requests_wait(tmp_path: Path) -> None:
    def config(slots: str) -> str:
        return text(f"models: {{m: {{targets: {{a: m}}, {slots}}}}}", a=url(a))

    async with engines(1) as (a,), reloading(tmp_path, config("admission: {concurrency: 1, queue: 9}")) as at:
        hold(a)
        tasks = [at.ask(stream=True) for _ in range(4)]
        await until(lambda: at.served.metric("gateway_requests_queued") == 3, "three wait")
        at.apply(config("admission: {concurrency: 2, queue: 0}"))
        await until(lambda: at.backend("a").in_flight == 2, "one more runs")
        assert at.served.metric("gateway_requests_queued") == 2, "who waits may go on waiting"
        assert (await at.ask()).error["code"] == "queue_full"
        at.apply(config("admission: {concurrency: 1, queue: 9}"))
        assert all(whole(answer) for answer in await asyncio.gather(*tasks))
        await idle(at.gateway)
        assert max_at_once(a) == 2
        first, second = await at.streaming(a), at.ask(stream=True)
        await until(lambda: at.served.metric("gateway_requests_queued") == 1, "one slot is what is left")
        at.apply(config("balance: least_loaded"))
        await until(lambda: at.backend("a").in_flight == 2, "no limit any more")
        assert whole(await first) and whole(await second)


def chats(engine: FakeEngine) -> list[Exchange]:
    """Return the chat requests that reached the engine."""
    return [exchange for exchange in engine.requests if exchange.path == "/v1/chat/completions"]


def max_at_once(engine: FakeEngine) -> int:
    """Return how many chat requests ran there at most at one time."""
    times = [(exchange.arrived, 1) for exchange in chats(engine)]
    times += [(exchange.finished or exchange.arrived, -1) for exchange in chats(engine)]
    running = most = 0
    for _, step in sorted(times):
        running += step
        most = max(most, running)
    return most


async def test_a_rotation_and_a_breaker_go_on(tmp_path: Path) -> None:
    def config(pause: str) -> str:
        models = "models: {m: {targets: {a: m, b: m, c: m}, balance: round_robin}}"
        return text(models, f"breaker: {{failures: 1, pause: {pause}}}", a=url(a), b=url(b), c=url(c))

    async with engines(3) as (a, b, c), reloading(tmp_path, config("30s")) as at:
        order = []
        for number in range(6):
            order.append((await at.ask()).headers["x-gateway-backend"])
            at.apply(config(f"{number + 1}s"))
        assert order == order[:3] * 2 and sorted(order[:3]) == ["a", "b", "c"]
        now = asyncio.get_running_loop().time()
        breaker = at.backend("a").breaker
        breaker.failed(breaker.begin(now), now)
        at.apply(config("7s"))
        assert at.backend("a").breaker is breaker and breaker.state(now) is State.OPEN
        assert breaker.settings.pause == 7
        assert {(await at.ask()).headers["x-gateway-backend"] for _ in range(4)} == {"b", "c"}


async def test_keys_and_the_retry_budget_are_those_of_the_new_config(tmp_path: Path) -> None:
    def config(name: str, share: str) -> str:
        digest = "0123456789abcdef" * 4
        return text(
            defaults=f"retry_budget: {share}", keys=f'keys: {{{name}: {{hash: "sha256:{digest}"}}}}', a=url(a)
        )

    async with engines(1) as (a,), reloading(tmp_path, text(a=url(a))) as at:
        assert (await at.ask()).status == 200
        at.apply(config("team", "50%"))
        assert (await at.ask()).status == 401
        assert at.gateway.core.dispatcher.budget.share == 0.5
        at.apply(text(a=url(a)))
        assert (await at.ask()).status == 200


async def test_another_kind_of_engine_takes_the_name_over(tmp_path: Path) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(x=url(a))) as at:
        hold(a)
        stream, before = await at.streaming(a), at.backend("x")
        at.apply(text(x=url(b)).replace("engine: openai", "engine: vllm"))
        assert at.backend("x") is not before
        assert "engine 1" in text_of(await at.ask())
        assert whole(await stream)
        await at.gone()
        await at.settled()
        page = (await at.served.get("/metrics")).body.decode()
        assert 'gateway_backend_up{backend="x",engine="vllm"} 1.0' in page
        assert 'gateway_backend_up{backend="x",engine="openai"}' not in page
        assert at.served.metric("gateway_requests_total", backend="x", outcome="ok") == 2


async def test_a_config_that_cannot_be_used_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(a=url(a))) as at:
        backend, snapshot = at.backend("a"), at.gateway.core.snapshot
        config = read(tmp_path, text(a=url(b), b=url(b)))

        def broken(settings: object) -> None:
            raise ValueError("its options cannot be used")

        monkeypatch.setattr("gateway.fleet.fleet.engine_of", broken)
        with pytest.raises(ValueError, match="cannot be used"):
            at.gateway.apply(config)
        assert at.gateway.core.snapshot is snapshot
        assert list(at.gateway.pool.backends) == ["a"] and at.backend("a") is backend
        assert "engine 0" in text_of(await at.ask())


async def test_one_backend_that_fails_in_the_gateway_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.fleet.member.FIRST_PAUSE", 0.01)
    async with engines() as (a, b), reloading(tmp_path, text(a=url(a), b=url(b))) as at:
        watch = at.gateway.fleet._members["a"].watch
        probes = []

        async def stumble(upstream: object) -> None:
            probes.append(upstream)
            if len(probes) == 1:
                raise KeyError("an adapter's slip")

        monkeypatch.setattr(watch, "probe", stumble)
        at.backend("a").woken.set()
        await until(lambda: len(probes) > 1, "it is probed again")
        assert "its health probes failed, which is a bug" in caplog.text
        at.backend("b").note(Health.DOWN, "who knows")
        at.backend("b").woken.set()
        await until(lambda: at.backend("b").health is Health.READY, "the other is still probed")


async def test_a_backend_comes_and_goes_before_anything_runs(tmp_path: Path) -> None:
    async with engines() as (a, b), reloading(tmp_path, text(a=url(a))) as at:
        for _ in range(3):
            at.apply(text(b=url(b)))
            at.apply(text(a=url(a), b=url(b)))
        assert list(at.gateway.pool.backends) == ["a", "b"]
        await at.gone()
        assert {(await at.ask()).headers["x-gateway-backend"] for _ in range(20)} == {"a", "b"}
        assert at.served.metric("gateway_attempts_total", backend="a", result="ok") > 0

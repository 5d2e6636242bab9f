"""An operator's orders for backends: pure rules first, then over real sockets what requests, views and metrics show.

Rules:
- Engines are fake ones behind real sockets, and the gateway is the real server.
- Nothing sleeps to be in time: orders that end by themselves are waited for by the state they leave.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.base import Action, Health
from gateway.app import Gateway
from gateway.fake.engine import FakeEngine
from gateway.fleet.breaker import Breaker, Settings, State
from gateway.fleet.orders import NEXT_TO_NOTHING, Kind, Order, Orders, Standing
from tests.api.test_admin import KEYS
from tests.config.files import config as read
from tests.faults.clients import until
from tests.faults.support import question, text_of
from tests.serving import Answer, Served, idle, serving

# pure


def test_an_order_holds_until_another_one_or_until_its_time_is_over() -> None:
    orders = Orders()
    orders.take(Order("a", Kind.DRAIN), 10.0)
    assert orders.drained and orders.next_end() is None and orders.expire(1e9) == []
    orders.take(Order("a", Kind.DRAIN, seconds=60.0), 10.0)
    orders.take(Order("a", Kind.WEIGHT, 0.25, 30.0), 10.0)
    assert (orders.weight, orders.factor, orders.next_end()) == (0.25, 0.25, 40.0)
    assert orders.expire(39.9) == []
    assert orders.expire(40.0) == [Kind.WEIGHT] and (orders.weight, orders.factor) == (1.0, 1.0)
    assert orders.drained and orders.expire(70.0) == [Kind.DRAIN] and not orders.drained
    orders.take(Order("a", Kind.DRAIN, seconds=60.0), 100.0)
    orders.take(Order("a", Kind.UNDRAIN), 101.0)
    assert not orders.drained and orders.next_end() is None


def test_a_weight_of_nothing_is_next_to_nothing_for_balancers() -> None:
    orders = Orders()
    orders.take(Order("a", Kind.WEIGHT, 0.0), 0.0)
    assert (orders.weight, orders.factor) == (0.0, NEXT_TO_NOTHING)


def test_another_process_is_told_what_is_left() -> None:
    ended: list[tuple[str, Kind]] = []
    standing = Standing(lambda name, kind: ended.append((name, kind)))
    standing.of("a").take(Order("a", Kind.DRAIN, seconds=60.0), 10.0)
    standing.of("b").take(Order("b", Kind.WEIGHT, 3.0), 10.0)
    standing.of("c").take(Order("c", Kind.WEIGHT, 1.0, 60.0), 10.0)
    told = [Order.read(json.loads(json.dumps(order.plain()))) for order in standing.told(25.0)]
    assert told == [Order("a", Kind.DRAIN, seconds=45.0), Order("b", Kind.WEIGHT, 3.0)]
    assert standing.next_end() == 70.0
    standing.expire(70.0)
    assert ended == [("a", Kind.DRAIN)] and standing.next_end() is None
    assert standing.told(70.0) == [Order("b", Kind.WEIGHT, 3.0)]


def test_a_breaker_that_is_reset_has_forgotten_everything() -> None:
    breaker = Breaker(Random(1), Settings(consecutive=2))
    breaker.cool(50.0, 0.0)
    breaker.failed(False, 0.0)
    breaker.failed(False, 0.0)
    assert breaker.state(0.0) is State.OPEN and not breaker.allows(0.0)
    breaker.reset()
    assert breaker.state(0.0) is State.CLOSED and breaker.allows(0.0) and breaker.ejections == 0
    breaker.failed(False, 1.0)
    assert breaker.state(1.0) is State.CLOSED, "the failures before the reset count no more"


def test_no_order_has_the_name_of_an_engine_s_action(gateway_paths: set[str]) -> None:
    orders = {path for path in gateway_paths if path.startswith("/gateway/backends/{name}/")}
    assert orders == {
        "/gateway/backends/{name}/logs",
        "/gateway/backends/{name}/drain",
        "/gateway/backends/{name}/undrain",
        "/gateway/backends/{name}/start",
        "/gateway/backends/{name}/stop",
        "/gateway/backends/{name}/weight",
        "/gateway/backends/{name}/breaker/reset",
        "/gateway/backends/{name}/{action}",
    }
    assert not {path.rsplit("/", 1)[1] for path in orders} & {action.value for action in Action}


@pytest.fixture
def gateway_paths(tmp_path: Path) -> set[str]:
    gateway = Gateway(read(tmp_path, "backends: {a: {engine: openai, url: 'http://127.0.0.1:9'}}"))
    return {str(getattr(route, "path", "")) for route in gateway._web.routes}


# over sockets


def config(*engines: FakeEngine, kind: str = "openai", more: str = "", model: str = "") -> str:
    backends = "".join(
        f'  {name}: {{engine: {kind}, url: "{engine.url}", models: [m]}}\n'
        for name, engine in zip("abc", engines, strict=False)
    )
    targets = ", ".join(f"{name}: m" for name, _ in zip("abc", engines, strict=False))
    return (
        f'server: {{listen: "127.0.0.1:0"}}\ndefaults: {{timeouts: {{queue: 20s}}, breaker: {{failures: 2}}}}\n'
        f"backends:\n{backends}models:\n  m: {{targets: {{{targets}}}{model}}}\n{more}"
    )


@asynccontextmanager
async def two(folder: Path, **more: Any) -> AsyncIterator[tuple[Served, FakeEngine, FakeEngine]]:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b:
        a.set(defaults={"say": "engine a"})
        b.set(defaults={"say": "engine b"})
        async with serving(folder, config(a, b, **more)) as served:
            yield served, a, b


async def order(served: Served, name: str, what: str, body: Any = None) -> Any:
    answer = await served.post(f"/gateway/backends/{name}/{what}", body)
    assert answer.status == 200, answer.body
    return answer.json()


async def view(served: Served, name: str = "a") -> Any:
    return next(each for each in (await served.get("/gateway/backends")).json() if each["name"] == name)


def ask(served: Served, *, stream: bool = False) -> asyncio.Task[Answer]:
    return asyncio.create_task(served.post("/v1/chat/completions", question("m", stream=stream)))


async def who(served: Served, count: int = 6) -> set[str]:
    """Return which engines answer so many requests."""
    return {text_of(await ask(served))[-1] for _ in range(count)}


async def test_a_drained_backend_gets_no_request_and_those_under_way_finish(tmp_path: Path) -> None:
    async with two(tmp_path, model=", balance: round_robin") as (served, a, b):
        for engine in (a, b):
            engine.set(rules=[{"gap": 0.05, "tokens": 8, "text": "count"}])
        streams = [ask(served, stream=True) for _ in range(2)]
        await a.until(lambda: any(exchange.events for exchange in a.requests))
        shown = await order(served, "a", "drain", {})
        assert shown["state"] == "drained" and shown["in_flight"] == 1
        assert shown["reason"] == "an operator has drained it; else it is ready"
        assert shown["orders"] == {
            "drained": True,
            "drained_left": None,
            "weight": 1.0,
            "weight_left": None,
        }
        assert served.metric("gateway_backend_drained", backend="a") == 1
        assert served.metric("gateway_backend_up", backend="a") == 0
        for answer in await asyncio.gather(*streams):
            assert answer.whole and answer.events[-1] == "[DONE]"
        before = len(a.requests)
        b.set(defaults={"say": "engine b"})
        assert await who(served) == {"b"}
        # A probe that finds it well does not bring it back.
        await served.gateway.fleet.refresh("a")
        assert served.metric("gateway_backend_up", backend="a") == 0
        assert await who(served) == {"b"}
        assert not [each for each in a.requests[before:] if each.path == "/v1/chat/completions"]

        a.set(defaults={"say": "engine a"})
        assert (await order(served, "a", "undrain"))["state"] == "ready"
        assert await who(served) == {"a", "b"}
        assert served.metric("gateway_backend_up", backend="a") == 1
        assert served.metric("gateway_backend_drained", backend="a") == 0


async def test_a_drained_backend_is_no_last_resort_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, a, b):
        await order(served, "a", "drain")
        await b.down()
        answer = await asyncio.wait_for(ask(served), 10)
        assert answer.status == 502 and not [each for each in a.requests if each.text]
        await order(served, "b", "drain")
        assert (await served.get("/readyz")).status == 503
        answer = await asyncio.wait_for(ask(served), 10)
        assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")
        assert "all backends of the model 'm' are drained" in answer.error["message"]
        # One that loads is waited for, but not while it is drained.
        served.gateway.pool.backends["a"].note(Health.LOADING, "its model is loading")
        why = "an operator has drained it; else it is loading: its model is loading"
        assert (await view(served))["reason"] == why
        answer = await asyncio.wait_for(ask(served), 10)
        assert answer.error["code"] == "no_healthy_backend"
        assert not [each for each in a.requests if each.text]


async def test_requests_that_wait_for_a_slot_of_a_backend_go_elsewhere_when_it_is_drained(
    tmp_path: Path,
) -> None:
    async with two(tmp_path, kind="llama-cpp-python") as (served, a, b):
        for engine in (a, b):
            engine.set(rules=[{"endless": True, "gap": 0.05, "text": "count"}])
        held = [await served.connect() for _ in range(2)]
        body = json.dumps(question("m", stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for _, writer in held:
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: served.metric("gateway_requests_in_flight") == 2, "both engines are busy")
        waiting = ask(served)
        await until(lambda: served.metric("gateway_requests_queued") == 1, "one waits")
        await order(served, "a", "drain")
        await order(served, "b", "drain")
        answer = await asyncio.wait_for(waiting, 10)
        assert "drained" in answer.error["message"]
        assert served.metric("gateway_requests_in_flight") == 2, "those under way go on"
        # Undrained, it takes one request at a time, as before.
        await order(served, "a", "undrain")
        late = [ask(served), ask(served)]
        await until(lambda: served.metric("gateway_requests_queued") == 2, "both wait for its slot")
        for engine in (a, b):
            engine.set(defaults={"say": "engine x"})
        for _, writer in held:
            writer.close()
        assert [(await each).status for each in late] == [200, 200]


async def test_a_drain_for_a_while_ends_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with two(tmp_path) as (served, _, _):
        shown = await order(served, "a", "drain", {"for": "250ms"})
        assert 0 < shown["orders"]["drained_left"] <= 0.25
        await until(lambda: served.metric("gateway_backend_drained") == 0, "its time is over")
        assert (await view(served))["state"] == "ready" and await who(served) == {"a", "b"}
    assert "backend 'a': drain for 0.25 s, ordered by 'anyone'" in caplog.messages
    over = "backend 'a': it takes requests again, as the time that an operator ordered is over"
    assert over in caplog.messages


async def test_orders_outlive_a_reload_and_a_backend_that_takes_another_s_place(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, a, b):
        gateway = served.gateway
        await order(served, "a", "drain", {"for": "1h"})
        await order(served, "a", "weight", {"weight": 0.5, "for": "1h"})
        kept = gateway.pool.backends["a"]
        gateway.apply(read(tmp_path, config(a, b, model=", balance: round_robin")))
        assert gateway.pool.backends["a"] is kept and (await view(served))["state"] == "drained"
        gateway.apply(read(tmp_path, config(a, b, kind="vllm")))
        assert gateway.pool.backends["a"] is not kept
        shown = await view(served)
        assert (shown["state"], shown["orders"]["weight"]) == ("drained", 0.5)
        assert served.metric("gateway_backend_drained", backend="a") == 1
        assert await who(served) == {"b"}
        await until(lambda: not gateway.fleet._leaving, "the old one has gone")
        assert served.metric("gateway_backend_weight", backend="a") == 0.5


@pytest.mark.parametrize("balance", ["round_robin", "least_loaded"])
async def test_a_weight_for_a_while_counts_in_every_model(tmp_path: Path, balance: str) -> None:
    async with two(tmp_path, model=f", balance: {balance}") as (served, a, b):
        shown = await order(served, "a", "weight", {"weight": 0, "for": "1h"})
        assert shown["orders"]["weight"] == 0 and 3590 < shown["orders"]["weight_left"] <= 3600
        assert served.metric("gateway_backend_weight", backend="a") == 0
        assert await who(served) == {"b"}
        # Unlike a drained one it serves where nobody else can.
        await order(served, "b", "drain")
        assert await who(served, 2) == {"a"}
        await order(served, "b", "undrain")
        assert (await order(served, "a", "weight", {"weight": 1}))["orders"]["weight_left"] is None
        assert await who(served, 20) == {"a", "b"}
    del a, b


async def test_a_weight_of_three_is_three_of_four_requests(tmp_path: Path) -> None:
    async with two(tmp_path, model=", balance: round_robin") as (served, a, _):
        await order(served, "a", "weight", {"weight": 3})
        for _ in range(8):
            await ask(served)
        assert len([each for each in a.requests if each.text]) == 6


async def test_a_breaker_is_reset(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, a, _):
        await order(served, "b", "drain")
        a.set(rules=[{"match": {"path": "/v1/chat/completions"}, "reply": {"status": 500}}])
        for word in range(3):
            await served.post("/v1/chat/completions", question("m", user=f"{word}"))
        assert (await view(served))["breaker"] == "open"
        a.set(defaults={"say": "engine a"})
        assert (await order(served, "a", "breaker/reset"))["breaker"] == "closed"
        assert served.metric("gateway_breaker_transitions_total", backend="a", state="closed") == 1
        assert await who(served, 1) == {"a"}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("nobody/drain", {}, 404, "backend_not_found", "no backend 'nobody'"),
        ("a/drain", {"for": 600}, 400, "invalid_value", "for: expected a duration such as 30s (write 600s)"),
        ("a/drain", {"for": "-1s"}, 400, "invalid_value", "for: expected a duration"),
        ("a/drain", {"four": "10s"}, 400, "invalid_value", "four: Extra inputs are not permitted"),
        ("a/undrain", {"for": "10s"}, 400, "invalid_value", "for: Extra inputs"),
        ("a/weight", {}, 400, "invalid_value", "weight: Field required"),
        (
            "a/weight",
            {"weight": 11},
            400,
            "invalid_value",
            "weight: Input should be less than or equal to 10",
        ),
        ("a/weight", {"weight": -1}, 400, "invalid_value", "weight: Input should be greater"),
        ("a/weight", {"weight": "1"}, 400, "invalid_value", "weight: Input should be a valid number"),
        ("a/weight", b"[]", 400, "invalid_value", "JSON object"),
    ],
)
async def test_what_is_no_order_is_refused(
    tmp_path: Path, path: str, body: Any, status: int, code: str, words: str
) -> None:
    async with two(tmp_path) as (served, _, _):
        answer = await served.post(f"/gateway/backends/{path}", body)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert words in answer.error["message"]
        assert (await view(served))["orders"]["weight"] == 1 and (await view(served))["state"] == "ready"


@pytest.mark.parametrize("what", ["drain", "undrain", "weight", "breaker/reset"])
async def test_orders_take_an_operator_s_key(tmp_path: Path, what: str) -> None:
    async with two(tmp_path, more=KEYS) as (served, _, _):
        path, body = f"/gateway/backends/a/{what}", {"weight": 2} if what == "weight" else {}
        assert (await served.post(path, body)).status == 401
        assert (await served.post(path, body, authorization="Bearer sk-team")).status == 403
        assert (await served.post(path, body, authorization="Bearer sk-boss")).status == 200
        foreign = {"origin": "http://evil.example", "authorization": "Bearer sk-boss"}
        assert (await served.post(path, body, **foreign)).status == 403
    await idle(served.gateway)

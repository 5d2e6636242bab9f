"""An engine that sleeps gets no requests: it would keep them, without a word, until somebody wakes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, chat, config, rest, until
from tests.serving import Served, serving

HANGS: dict[str, Any] = {"faults": [{"at": "request", "do": "hang"}]}


def telling(asleep: bool) -> dict[str, Any]:
    """Return the rule by which an engine tells whether it sleeps."""
    return {"match": {"path": "/is_sleeping"}, "reply": {"status": 200, "body": {"is_sleeping": asleep}}}


ACTIONS: list[dict[str, Any]] = [
    {"match": {"path": path}, "reply": {"status": 200, "body": {"done": True}}}
    for path in ("/sleep", "/wake_up")
]


def state(served: Served, name: str) -> Health | None:
    return served.gateway.pool.backends[name].health


async def test_one_that_sleeps_is_left_out_at_once_after_it_was_put_to_sleep(tmp_path: Path) -> None:
    awake = [telling(False), *ACTIONS]
    async with (
        FakeEngine(models=["up"], rules=awake) as first,
        FakeEngine(models=["up"], rules=awake) as second,
        serving(tmp_path, config(first.url, second.url, kind="vllm", model="balance: round_robin")) as served,
    ):
        first.set(models=["up"], rules=[telling(True), *ACTIONS, HANGS])
        assert (await served.post("/gateway/backends/engine-0/sleep", {})).status == 200
        assert state(served, "engine-0") is Health.ASLEEP
        for _ in range(6):
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.headers["x-gateway-backend"]) == (200, "engine-1")
        (shown, _) = (await served.get("/gateway/backends")).json()
        assert (shown["state"], shown["reason"]) == ("asleep", "it sleeps until it is woken")
        first.set(models=["up"], rules=awake)
        assert (await served.post("/gateway/backends/engine-0/wake", {})).status == 200
        assert state(served, "engine-0") is Health.READY
        await rest(served)


async def test_where_all_sleep_the_client_is_told_at_once(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[telling(True), HANGS]) as engine,
        serving(tmp_path, config(engine.url, kind="vllm"), patient=False) as served,
    ):
        await until(lambda: state(served, "engine-0") is Health.ASLEEP, "it is known to sleep")
        answer = await served.post(CHAT, chat())
        assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")
        assert answer.error["message"] == "all backends of the model 'm' sleep; somebody has to wake one"
        assert not any(request.method == "POST" for request in engine.requests)


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 404},
        {"status": 500},
        {"status": 200, "body": "no JSON"},
        {"status": 200, "body": {"is_sleeping": False}},
    ],
)
async def test_an_engine_that_does_not_say_that_it_sleeps_is_awake(
    reply: dict[str, Any], tmp_path: Path
) -> None:
    rule = {"match": {"path": "/is_sleeping"}, "reply": reply}
    async with (
        FakeEngine(models=["up"], rules=[rule]) as engine,
        serving(tmp_path, config(engine.url, kind="vllm")) as served,
    ):
        assert (await served.post(CHAT, chat())).status == 200
        await rest(served)


async def test_an_engine_without_such_a_probe_is_not_asked_again(tmp_path: Path) -> None:
    rule = {"match": {"path": "/is_sleeping"}, "reply": {"status": 404}}
    async with (
        FakeEngine(models=["up"], rules=[rule]) as engine,
        serving(tmp_path, config(engine.url, kind="vllm")) as served,
    ):
        for _ in range(3):
            await served.gateway.fleet.refresh("engine-0")
        assert sum(request.path == "/is_sleeping" for request in engine.requests) == 1

"""An engine that computes a single request at a time, and one that minds foreign request ids."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.fake.engine import FakeEngine
from tests.serving import Answer, Served, serving

CONFIG = """
backends: {{one: {{engine: {engine}, url: "{url}", models: [m]}}}}
models: {{m: {{targets: {{one: m}}}}, alias: {{targets: {{one: m}}}}}}
defaults: {{timeouts: {{queue: {queue}}}}}
"""


async def ask(served: Served, model: str) -> Answer:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    return await served.post("/v1/chat/completions", body, x_request_id="mine-1")


async def test_requests_wait_for_their_turn_whatever_the_model_is_called(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"], slots=1, queue=0, rules=[{"say": "one two three"}]) as engine:
        text = CONFIG.format(engine="llama-cpp-python", url=engine.url, queue="20s")
        async with serving(tmp_path, text) as served:
            answers = await asyncio.gather(*(ask(served, model) for model in ["m", "alias"] * 4))
            assert [answer.status for answer in answers] == [200] * 8
            assert all(answer.events[-1] == "[DONE]" for answer in answers)


async def test_another_engine_gets_all_at_once(tmp_path: Path) -> None:
    """The test above would pass for any engine if the fake one did not refuse."""
    behaviour = {"say": "one two three", "first_token": 0.2}
    async with FakeEngine(models=["m"], slots=1, queue=0, rules=[behaviour]) as engine:
        text = CONFIG.format(engine="openai", url=engine.url, queue="20s")
        async with serving(tmp_path, text) as served:
            answers = await asyncio.gather(*(ask(served, "m") for _ in range(4)))
            assert 503 in [answer.status for answer in answers]


async def test_a_turn_that_does_not_come(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"], rules=[{"say": "one", "first_token": 60}]) as engine:
        text = CONFIG.format(engine="llama-cpp-python", url=engine.url, queue="500ms")
        async with serving(tmp_path, text) as served:
            first = asyncio.create_task(ask(served, "m"))
            await engine.until(lambda: any(exchange.text for exchange in engine.requests))
            waiting = asyncio.create_task(ask(served, "m"))
            async with asyncio.timeout(5):
                while not served.metric("gateway_requests_queued", model="m"):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            refused = await waiting
            assert refused.status == 503 and refused.error["code"] == "queue_timeout"
            assert sum(bool(exchange.text) for exchange in engine.requests) == 1
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


async def test_request_ids_go_to_engines_that_take_them(tmp_path: Path) -> None:
    seen = {}
    for name in ("openai", "llama-cpp-python"):
        async with FakeEngine(models=["m"], rules=[{"say": "one"}]) as engine:
            async with serving(tmp_path, CONFIG.format(engine=name, url=engine.url, queue="1s")) as served:
                answer = await ask(served, "m")
            assert answer.headers["x-request-id"] == "mine-1"
            seen[name] = engine.requests[-1].headers.get("x-request-id")
    assert seen == {"openai": "mine-1", "llama-cpp-python": None}

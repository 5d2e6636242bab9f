"""Configs applied at random while clients ask: backends come, go, move and change, and every request is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from gateway.fake.engine import FakeEngine
from tests.config.files import config as read
from tests.fleet.test_apply import engines, reloading, text, whole

CLIENTS, APPLIES = 6, 60


def any_config(rng: Random, started: list[FakeEngine]) -> str:
    """Return a config with one to three of the backends `a`, `b` and `c`, at any of the engines."""
    names = rng.sample(["a", "b", "c"], rng.randint(1, 3))
    backends = {
        name: f'url: "{rng.choice(started).url}", models: [m], headers: {{x-{name}: "{rng.random()}"}}'
        for name in names
    }
    targets = ", ".join(f"{name}: {{model: m, weight: {rng.randint(1, 3)}}}" for name in names)
    balance = rng.choice(["least_loaded", "round_robin"])
    gate = rng.choice(["", f", admission: {{concurrency: {rng.randint(1, 6)}, queue: 100}}"])
    config = text(f"models: {{m: {{targets: {{{targets}}}, balance: {balance}{gate}}}}}", **backends)
    return config.replace("engine: openai", f"engine: {rng.choice(['openai', 'vllm'])}")


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_is_answered_whatever_the_config_becomes(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    async with engines(3) as started:
        for engine in started:
            engine.set(defaults={"say": "one two three four", "gap": 0.003})
        async with reloading(tmp_path, any_config(rng, started)) as at:
            over = False

            async def ask() -> int:
                count = 0
                while not over:
                    stream = count % 2 == 0
                    answer = await at.ask(stream=stream)
                    assert answer.status == 200, answer.body
                    assert whole(answer) if stream else answer.whole
                    count += 1
                return count

            clients = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
            for _ in range(APPLIES):
                at.gateway.apply(read(tmp_path, any_config(rng, started)))
                await asyncio.sleep(rng.random() * 0.04)
            over = True
            counts = await asyncio.gather(*clients)
            assert min(counts) > 10
            await at.gone()
            assert at.served.metric("gateway_requests_in_flight") == 0

"""Rules in front of two real engines: llama.cpp, launched twice on the demo model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.clients import CHAT, chat, until
from tests.serving import Answer, Served, serving

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
CONFIG = f"""
backends:
  one: {{engine: llamacpp, launch: {{model: {MODEL}, name: demo, threads: 1, parallel: 2}}}}
  two: {{engine: llamacpp, launch: {{model: {MODEL}, name: demo, threads: 1, parallel: 2}}}}
models:
  first: {{targets: {{one: demo}}}}
  second: {{targets: {{two: demo}}, internal: true}}
  both: {{targets: {{one: demo, two: demo}}, balance: {{policy: session, by: [user]}}}}
routes:
  - {{name: halves, match: {{model: ab}}, to: {{weighted: {{first: 1, second: 1}}}}}}
  - {{name: warm, match: {{model: any}}, to: {{warm: [first, second]}}}}
  - {{name: safe, match: {{model: first}}, to: {{failover: [first, second]}}}}
"""


async def ask(served: Served, model: str, user: str = "") -> Answer:
    body = {**chat("What is this gateway?"), "model": model, "max_tokens": 4, "temperature": 0}
    answer = await served.post(CHAT, {**body, "user": user} if user else body)
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"]
    return answer


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_rules_choose_among_real_engines_and_go_on_when_one_dies(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        pool = served.gateway.pool.backends
        await until(lambda: all(backend.ready for backend in pool.values()), "both are up")
        users = [f"user-{number}" for number in range(8)]
        halves = [(await ask(served, "ab", user)).headers["x-gateway-backend"] for user in users]
        assert set(halves) == {"one", "two"}
        assert halves == [(await ask(served, "ab", user)).headers["x-gateway-backend"] for user in users]
        assert (await ask(served, "any")).headers["x-gateway-model"] == "first"
        where = (await ask(served, "both", "ann")).headers["x-gateway-backend"]
        again = await ask(served, "both", "ann")
        assert (again.headers["x-gateway-backend"], again.headers["x-gateway-affinity"]) == (where, "hit")
        launched = served.gateway.fleet.views(0.0)[0].launched
        assert launched is not None and launched.pid is not None
        os.kill(launched.pid, signal.SIGKILL)
        assert (await ask(served, "first")).headers["x-gateway-model"] == "second"
        told = (await served.post("/v1/route:explain", {**chat(), "model": "first"})).json()
        assert told["rule"] == "safe"
        assert [each["backend"] for each in told["candidates"]] == ["one", "two"]

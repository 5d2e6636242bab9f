"""vLLM put to sleep to make room for another engine, and woken by the next request: the real one, on a CPU.

Rules:
- The other engine is the embedded llama.cpp. One of both may run at a time, so that memory plays no part.
- On a CPU nothing is moved anywhere: what is seen here is that the process stays, and takes no requests meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.residency.state import EngineState
from tests.engines.hosts import START
from tests.engines.install import ROOT, python
from tests.faults.support import question
from tests.serving import Answer, Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(2 * START)]

CONFIG = f"""
server: {{listen: "127.0.0.1:0", engines: {{at_once: 1}}}}
backends:
  sleeper:
    engine: vllm
    launch:
      model: {ROOT}/models/demo
      name: sleeper
      command: [{python("vllm")}, -m, vllm.entrypoints.openai.api_server]
      max_model_len: 512
      max_num_seqs: 2
      dtype: float32
      sleep_mode: true
      start: on_demand
      start_timeout: {START:.0f}s
      env: {{VLLM_CPU_KVCACHE_SPACE: "1", HF_HUB_OFFLINE: "1"}}
  other:
    engine: llamacpp
    launch: {{model: {ROOT}/models/demo.gguf, name: other, threads: 1, context: 512, start: on_demand, max_wait: 5m}}
"""


def pid(served: Served, name: str) -> int | None:
    supervisor = served.gateway.fleet._members[name].supervisor
    assert supervisor is not None
    return supervisor.process.pid


def state(served: Served, name: str) -> EngineState:
    residence = served.gateway.pool.backends[name].residence
    assert residence is not None
    return residence.state


async def says(served: Served, model: str) -> str:
    """Ask a model for a few tokens, always the same ones. Return its answer."""
    asked = question(model) | {"max_tokens": 8, "temperature": 0, "seed": 1}
    body = json.dumps(asked).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: here",
        "Connection: close",
        "Content-Type: application/json",
    ]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    answer = Answer.read(await served.raw(head + body, START))
    assert answer.status == 200, answer
    found: Any = answer.json()["choices"][0]["message"]["content"]
    return str(found)


async def test_it_sleeps_to_make_room_and_wakes_as_the_same_process(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG, patient=False) as served:
        async with asyncio.timeout(START):
            before = await says(served, "sleeper")
        first = pid(served, "sleeper")
        for _ in range(2):
            async with asyncio.timeout(120):
                await says(served, "other")
            assert (state(served, "sleeper"), pid(served, "sleeper")) == (EngineState.SLEEPING, first)
            async with asyncio.timeout(120):
                assert await says(served, "sleeper") == before
            assert (state(served, "sleeper"), pid(served, "sleeper")) == (EngineState.READY, first)
            assert pid(served, "other") is None
        assert served.metric("gateway_engine_stops_total", backend="sleeper", reason="room") == 2
        assert served.metric("gateway_engine_loads_total", backend="sleeper", result="ready") == 3

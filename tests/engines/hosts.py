"""The real engines of one run, each launched by a gateway of its own, with taps in front of it for the checks.

Rules:
- An engine starts when it is first asked for, and only one runs at a time: together they need more memory than a small
  machine has.
- All serve the demo model as `demo`, or under the name the engine itself gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from backends.base import Health
from tests.conformance.stage import Check
from tests.conformance.tap import Tap, tapping
from tests.engines import triton
from tests.engines.install import HOME, ROOT, python
from tests.engines.scripted import model
from tests.serving import serving

HUB = HOME / "hub"
"""An empty cache of the hub: what an engine finds there does not depend on who runs the tests."""
SCRIPTED = ROOT / "tests" / "engines" / "scripted"
"""The servers whose model is a script."""
SCRIPTED_MODEL = HOME / "scripted" / "demo"
START = 600.0
"""Seconds until an engine that does not get ready counts as broken."""

LAUNCHES = {
    "vllm": f"""
    launch:
      model: models/demo
      command: [{python("vllm")}, -m, vllm.entrypoints.openai.api_server]
      max_model_len: 2048
      max_num_seqs: 8
      dtype: float32
      tool_parser: hermes
      # The demo model would fill its answer with spaces for want of anything better.
      extra_args: [--structured-outputs-config, '{{"backend": "xgrammar", "disable_any_whitespace": true}}']
      env: {{VLLM_CPU_KVCACHE_SPACE: "1", HF_HUB_OFFLINE: "1"}}
""",
    "transformers": f"""
    launch:
      model: models/demo
      command: [{python("transformers").with_name("transformers")}, serve]
      device: cpu
      dtype: float32
      env: {{HF_HUB_OFFLINE: "1", HF_HUB_CACHE: {HUB}}}
""",
    "llama-cpp-python": f"""
    launch:
      model: models/demo.gguf
      command: [{python("llama-cpp-python")}, -m, llama_cpp.server]
      max_model_len: 2048
      embeddings: true
""",
    "ray-serve": f"""
    launch:
      app: tests.engines.ray_app:app
      args: {{model: {ROOT}/models/demo.gguf}}
      command: [{python("ray-serve")}]
""",
    "lmdeploy": f"""
    launch:
      model: {SCRIPTED_MODEL}
      command: [{python("lmdeploy")}, {SCRIPTED / "lmdeploy_server.py"}, serve, api_server]
      max_model_len: 2048
      max_num_seqs: 8
      tool_parser: qwen3
      extra_args: [--logprobs-mode, raw_logprobs, --enable-abort-handling]
      env: {{HF_HUB_OFFLINE: "1", HF_HUB_CACHE: {HUB}}}
""",
    "sglang": f"""
    launch:
      model: {SCRIPTED_MODEL}
      command: [{python("sglang")}, {SCRIPTED / "sglang_server.py"}, serve]
      max_model_len: 2048
      max_num_seqs: 2
      max_queue: 4
      tool_parser: qwen25
      lora_loading: true
      extra_args: [--device, cpu, --skip-server-warmup, --max-lora-rank, "8", --lora-target-modules, q_proj]
      env: {{HF_HUB_OFFLINE: "1", HF_HUB_CACHE: {HUB}}}
""",
}
ENGINES = (*LAUNCHES, "triton")


class Hosts:
    """The engine that runs now, if any."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._running = ""
        self._port = 0
        self.metrics_url = ""
        """Where the running engine's metrics are, if not where it answers."""

    async def __aenter__(self) -> Hosts:
        HUB.mkdir(parents=True, exist_ok=True)
        model.make(ROOT / "models" / "demo", SCRIPTED_MODEL)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def tap(self, engine: str, check: Check | None = None) -> AsyncIterator[Tap]:
        """Yield a tap in front of the engine, which runs afterwards."""
        if engine != self._running:
            await self._stack.aclose()
            self._running, self.metrics_url = "", ""
            await (self._start_triton() if engine == "triton" else self._launch(engine))
            self._running = engine
        async with tapping(self._port, hold=check is not None and check.cancels) as tap:
            yield tap

    async def _launch(self, engine: str) -> None:
        text = f"backends:\n  host:\n    engine: {engine}\n    api_key: known{LAUNCHES[engine]}"
        served = await self._stack.enter_async_context(
            serving(self._folder, text, patient=False, alone=False)
        )
        backend = served.gateway.pool.backends["host"]
        async with asyncio.timeout(START):
            while backend.health is not Health.READY:
                assert backend.health is not Health.DOWN, f"{engine}: {backend.reason}"
                await served.gateway.pool.change()
        assert backend.upstream is not None
        self._port = int(backend.upstream.url.rpartition(":")[2])

    async def _start_triton(self) -> None:
        # It starts and stops in seconds, in which nothing else runs here.
        running = self._stack.enter_context(triton.running())
        self._port = int(running.url.rpartition(":")[2])
        self.metrics_url = running.metrics_url

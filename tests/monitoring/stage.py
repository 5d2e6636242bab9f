"""A gateway under load, with faults of every kind that a dashboard or an alert looks at.

Rules:
- Engines are the fake one, and one small program that the gateway launches; nothing leaves loopback.
- No GPU is needed: one that tells everything stands in for NVIDIA's library.
- Load comes in rounds, one a second, so that Prometheus sees every counter rise; each round does everything once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from gateway.fake.engine import FakeEngine
from gateway.machine.aside import Aside
from gateway.machine.gpu import Gpu, GpuUser
from gateway.residency.state import EngineState
from tests.faults.clients import until
from tests.fleet.test_apply_launched import MODEL, SERVER
from tests.reload.watched import Watched, watched

ANSWER: Final = {
    "id": "a",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 8,
        "completion_tokens": 4,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
"""An answer that tells more of its tokens than their number."""
CONFIG: Final = """
server: {{listen: "127.0.0.1:0", auth: none, drain: 1s, limits: {{body: 4KiB}}}}
defaults: {{breaker: {{failures: 2, pause: 2s}}}}
backends:
  vllm-a: {{engine: vllm, url: "{a}"}}
  vllm-b: {{engine: vllm, url: "{b}"}}
  broken: {{engine: openai, url: "{broken}", models: [m]}}
  gone: {{engine: openai, url: "http://127.0.0.1:1", models: [m]}}
  cpu: {{engine: llamacpp, url: "{cpu}"}}
  local: {{engine: llamacpp, launch: {{model: {model}, runtime: {program}, threads: 1}}}}
routes:
  - name: rollout
    match: {{model: chat, header: {{x-try: canary}}}}
    to: {{canary: {{model: next, against: chat, steps: [50%, 100%], interval: 1h, samples: 100000}}}}
  - name: copies
    match: {{model: chat, header: {{x-try: shadow}}}}
    to: {{shadow: {{of: chat, to: next, sample: 100%}}}}
models:
  chat:
    targets: {{vllm-a: m, vllm-b: m, broken: {{model: m, weight: 2}}}}
    balance: prefix
  eager:
    targets: {{vllm-a: {{model: m, weight: 99}}, cpu: m}}
    hedge: {{after: 100ms, budget: 100%}}
  counted: {{targets: {{vllm-a: m}}}}
  small:
    targets: {{vllm-b: m}}
    admission: {{concurrency: 1, queue: 1}}
  next: {{targets: {{vllm-b: m}}, internal: true}}
  away: {{targets: {{gone: m}}, timeouts: {{queue: 1s}}}}
  tool: {{targets: {{local: demo}}}}
  idle: {{targets: {{vllm-a: m}}}}
  tuned: {{targets: {{vllm-a: m}}, lora_slots: 1, loras: {{red: /loras/red, blue: /loras/blue}}}}
"""


def page(rounds: int) -> str:
    """Return the metrics page of an engine that is nearly full and has done its work for so many rounds."""
    lines = [
        "vllm:num_requests_running 3",
        "vllm:num_requests_waiting 2",
        "vllm:kv_cache_usage_perc 0.97",
        f"vllm:prefix_cache_hits_total {30 * rounds}",
        f"vllm:prefix_cache_queries_total {100 * rounds}",
        f"vllm:prompt_tokens_total {100 * rounds}",
        f"vllm:generation_tokens_total {50 * rounds}",
        f"vllm:spec_decode_num_draft_tokens_total {20 * rounds}",
        f"vllm:spec_decode_num_accepted_tokens_total {15 * rounds}",
        f"vllm:num_preemptions_total {rounds // 4}",
        f'vllm:request_success_total{{finished_reason="stop"}} {3 * rounds}',
        f'vllm:request_success_total{{finished_reason="length"}} {rounds}',
    ]
    for name in (
        "time_to_first_token",
        "inter_token_latency",
        "request_time_per_output_token",
        "e2e_request_latency",
        "request_queue_time",
    ):
        for bound, count in (("0.05", 3 * rounds), ("0.5", 4 * rounds), ("+Inf", 4 * rounds)):
            lines.append(f'vllm:{name}_seconds_bucket{{le="{bound}"}} {count}')
        lines += [f"vllm:{name}_seconds_sum {0.3 * rounds}", f"vllm:{name}_seconds_count {4 * rounds}"]
    return "\n".join([*lines, ""])


def script(rounds: int) -> dict[str, Any]:
    """Return what the engine of `vllm-a` does after so many rounds."""
    return {
        "models": ["m"],
        "defaults": {"gap": 0.01, "first_token": 0.02},
        "rules": [
            _answers("/metrics", page(rounds)),
            _answers("/v1/load_lora_adapter", "Success: LoRA adapter added successfully."),
            _answers("/v1/unload_lora_adapter", "Success: LoRA adapter removed successfully."),
            {"match": {"contains": "slow one"}, "first_token": 0.5},
            {"match": {"stream": False}, "reply": {"status": 200, "body": ANSWER}},
        ],
    }


class Stage:
    """The gateway on it, and what is done to it."""

    def __init__(self, watched: Watched, engine: FakeEngine) -> None:
        self._engine = engine
        self._watched, self.served = watched, watched.served
        self.rounds = 0
        machine = self.served.gateway.machine
        assert machine is not None
        machine._gpu_reads = [Aside("the GPU of the stage", lambda: (self._gpu(),))]

    async def round(self) -> None:
        """Do everything once: what goes well, and what goes wrong."""
        self.rounds += 1
        self._engine.set(**script(self.rounds))
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(
                    self._chat("chat", f"the same beginning of all prompts {number}", user=str(number))
                )
                group.create_task(self._chat("small", "one of too many"))
            group.create_task(self._chat("eager", "slow one"))
            group.create_task(self._chat("counted", "as a whole", stream=False))
            group.create_task(self._chat("chat", "half", x_try="canary", user=str(self.rounds)))
            group.create_task(self._chat("chat", "twice", x_try="shadow"))
            group.create_task(self._chat("tool", "hello"))
            group.create_task(self._chat(("red", "blue")[self.rounds % 2], "hello"))
            group.create_task(self._chat("away", "hello"))
            group.create_task(self._chat("nobody", "hello"))
            group.create_task(self._leave())
            group.create_task(self._garbage())

    async def wrong_config(self) -> None:
        """Have the gateway read a config that is wrong."""
        await self._watched.write(self._watched.file.read_text() + "nonsense: 1\n", "refused")

    async def other_config(self) -> None:
        """Have it read one that is right, and differs from the one before."""
        await self._watched.write(self._watched.file.read_text() + "  other: {targets: {vllm-b: m}}\n")

    async def stop_engine(self) -> None:
        """Have the launched engine stop and start again, as an operator would."""
        keeper, residence = (
            self.served.gateway.fleet.keeper,
            self.served.gateway.pool.backends["local"].residence,
        )
        assert keeper is not None and residence is not None
        keeper.order("local", run=False)
        await until(lambda: residence.state is EngineState.STOPPED, "the launched engine has stopped")
        keeper.order("local", run=True)
        await until(lambda: residence.state is EngineState.READY, "it runs again")

    def kill_engine(self) -> None:
        """End the launched engine, as a crash would."""
        pid = self.served.gateway.fleet.launched()["local"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def _gpu(self) -> Gpu:
        """Return a GPU that the launched engine uses."""
        pid = self.served.gateway.fleet.launched()["local"]
        return Gpu(
            "nvidia0",
            "NVIDIA H200",
            utilization=0.8,
            memory_used=120 << 30,
            memory_total=141 << 30,
            power=540.0,
            power_limit=700.0,
            temperature=71.0,
            users=() if pid is None else (GpuUser(pid, 100 << 30),),
        )

    async def _chat(self, model: str, text: str, stream: bool = True, **more: str) -> None:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 12,
            "stream": stream,
        }
        headers = {name: more.pop(name) for name in ("x_try",) if name in more}
        await self.served.post("/v1/chat/completions", body | more, **headers)

    async def _leave(self) -> None:
        """Ask for a stream and go when it has begun."""
        body = b'{"model":"chat","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"endless"}]}'
        reader, writer = await self.served.connect()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x.localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        await reader.read(1)
        writer.close()

    async def _garbage(self) -> None:
        """Send what is no HTTP, and a body that is too large."""
        await self.served.raw(b"GET / HTTP/9\r\n\r\n")
        await self.served.post("/v1/chat/completions", b"x" * 8192)


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Set it up, with its files in `folder`."""
    program = folder / "llama-server"
    program.write_text(SERVER.format(python=sys.executable, go=str(folder / "go")))
    program.chmod(0o700)
    slots = _answers("/slots", [{"n_ctx": 512, "is_processing": False}] * 2)
    failing = {"match": {}, "reply": {"status": 500, "body": {"error": {"message": "out of memory"}}}}
    async with (
        FakeEngine(**script(0)) as a,
        FakeEngine(models=["m"], defaults={"gap": 0.02, "first_token": 0.05}) as b,
        FakeEngine(models=["m"], rules=[failing]) as broken,
        FakeEngine(models=["m"], rules=[slots]) as cpu,
    ):
        text = CONFIG.format(a=a.url, b=b.url, broken=broken.url, cpu=cpu.url, model=MODEL, program=program)
        async with watched(folder, text) as at:
            yield Stage(at, a)


def _answers(path: str, body: object) -> dict[str, Any]:
    return {"match": {"path": path}, "reply": {"status": 200, "body": body}}

"""What the fault suites share: a gateway between two fake engines, and what must hold after every fault.

Rules:
- `faulty` does what a test says, `healthy` never fails; their answers have no word in common but the last ones.
- Whatever happened, `sound` holds afterwards: nothing in flight, no place held, no connection busy, a stream of another
  client untouched, no secret told, and the next request answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.fake.engine import FakeEngine
from gateway.fake.journal import Exchange
from gateway.fleet.backend import Backend
from tests.faults.clients import until
from tests.serving import Answer, Served, idle, serving

SECRET = "cuckoo-of-the-engines-key"
PROMPT = "cuckoo-of-the-prompt"
FAULTY = "faulty one two three"
HEALTHY = "healthy one two three"

CONFIG = """
server: {{listen: "127.0.0.1:0", limits: {{event: 1MiB}}}}
defaults:
  timeouts: {{queue: 10s, connect: 5s, send: 10s, first_byte: 10s, first_token: 10s, idle: 10s, total: 30s}}
  breaker: {{failures: 2, pause: 30s}}
backends:
  faulty: {{engine: {engine}, url: "{url}", models: [m], api_key: "${{env.ENGINE_KEY}}", timeouts: {{{clocks}}}}}
  healthy: {{engine: openai, url: "{healthy}", models: [m]}}
models:
  alone: {{targets: {{faulty: m}}}}
  pair: {{targets: {{faulty: m, healthy: m}}, balance: round_robin}}
  calm: {{targets: {{healthy: m}}}}
"""


@dataclass
class Stage:
    """The gateway, and the two engines behind it."""

    served: Served
    faulty: FakeEngine
    healthy: FakeEngine

    def misbehave(self, **behaviour: Any) -> None:
        """Set what the faulty engine does with every request from now on."""
        self.faulty.set(rules=[{"say": FAULTY, **behaviour}])

    async def ask(self, model: str, *, stream: bool = False, **more: Any) -> Answer:
        """One chat request for the model."""
        return await self.served.post("/v1/chat/completions", question(model, stream=stream, **more))

    def backend(self, name: str = "faulty") -> Backend:
        return self.served.gateway.pool.backends[name]

    def attempts(self, backend: str = "faulty", **labels: str) -> float:
        return self.served.metric("gateway_attempts_total", backend=backend, **labels)

    def outcomes(self, model: str, outcome: str) -> float:
        return self.served.metric("gateway_requests_total", model=model, outcome=outcome)


def question(model: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    """Return a chat request that can be recognised by its model's name."""
    text = f"{PROMPT} for-{model}"
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **more}


def asked(engine: FakeEngine, model: str) -> list[Exchange]:
    """Return the requests for that model that reached the engine."""
    return [exchange for exchange in engine.requests if f"for-{model}" in exchange.text]


def text_of(answer: Answer) -> str:
    """Return what the model said, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = [event for event in answer.events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0].get("delta", {}).get("content") or "" for chunk in chunks)


@contextlib.asynccontextmanager
async def stage(
    folder: Path, *, clocks: str = "", url: str | None = None, engine: str = "openai", config: str = CONFIG
) -> AsyncIterator[Stage]:
    """Yield a gateway before two engines.

    `clocks` are timeouts of the faulty backend; `url` stands for its engine's own.
    """
    async with sockets_closed(), FakeEngine(models=["m"]) as faulty, FakeEngine(models=["m"]) as healthy:
        faulty.set(defaults={"say": FAULTY})
        healthy.set(
            defaults={"say": HEALTHY}, rules=[{"match": {"contains": "for-calm"}, "tokens": 10, "gap": 0.002}]
        )
        text = config.format(url=url or faulty.url, healthy=healthy.url, clocks=clocks, engine=engine)
        async with serving(folder, text, {"ENGINE_KEY": SECRET}) as served:
            yield Stage(served, faulty, healthy)
            await sound(served)


@contextlib.asynccontextmanager
async def undisturbed(at: Stage) -> AsyncIterator[None]:
    """Meanwhile another client's stream runs, and comes whole."""
    before = len(asked(at.healthy, "calm"))
    stream = asyncio.create_task(at.ask("calm", stream=True))
    await at.healthy.until(lambda: [e.events for e in asked(at.healthy, "calm")][before:] > [0])
    yield
    answer = await stream
    assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")
    assert len(text_of(answer).split()) == 10


async def sound(served: Served) -> None:
    """Check what holds when nothing is going on."""
    await idle(served.gateway)
    budget = served.gateway.core.dispatcher.budget
    assert budget.active == 0
    assert served.metric("gateway_requests_in_flight") == 0
    assert served.metric("gateway_requests_queued") == 0
    assert served.metric("gateway_upstream_connections", state="busy") == 0
    assert (await served.get("/healthz")).status == 200


@contextlib.asynccontextmanager
async def sockets_closed() -> AsyncIterator[None]:
    """Every socket that is opened meanwhile is closed again."""
    before = sockets()
    yield
    await until(lambda: not sockets() - before, "every socket is closed")


def sockets() -> set[str]:
    """Return the sockets this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it was closed in between
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}

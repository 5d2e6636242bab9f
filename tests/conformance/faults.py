"""What must hold when something goes wrong behind the gateway, or the client leaves; the rest of the table of checks.

Rules:
- Engines do not fail on command: those checks are replayed, with what the engine sends when it does.
- An engine learns that its client has left by the end of its connection. What it makes of that is its own affair.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from backends.base import Operation
from tests.conformance import shapes
from tests.conformance.checks import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, STREAM, asking
from tests.conformance.shapes import MODEL
from tests.conformance.stage import CHECKS, Stage, check
from tests.serving import Answer

LEFT = 0.25
"""Seconds after which an engine's connection is closed when its client has left."""
TRIES = 5
"""A busy machine may hold everything up once; not this often in a row."""
PATIENCE = 60.0
"""Seconds until something that should happen counts as not happening."""

COUNTING = asking("Count to one hundred.") | {"max_tokens": 1000}

LACKING: dict[Operation, tuple[str, dict[str, Any]]] = {
    Operation.IMAGES: ("/v1/images/generations", {"model": MODEL, "prompt": "A gateway."}),
    Operation.SPEECH: ("/v1/audio/speech", {"model": MODEL, "input": "A gateway.", "voice": "alloy"}),
    Operation.RERANK: (RERANK, {"model": MODEL, "query": "Which?", "documents": ["This.", "That."]}),
    Operation.EMBEDDINGS: (EMBEDDINGS, {"model": MODEL, "input": "A gateway."}),
    Operation.COMPLETIONS: (COMPLETIONS, {"model": MODEL, "prompt": "A gateway"}),
}
"""Requests for what an engine may lack; the first that it does is asked for."""


@check()
async def not_supported(stage: Stage) -> None:
    path, body = next(row for operation, row in LACKING.items() if operation not in stage.engine.operations)
    shapes.error(await stage.ask(path, body), 400, "not_supported")


# --- errors of the engine


@check(CHAT, asking("Fail before the first token."), replayed=True)
def error_first(answer: Answer) -> None:
    shapes.error(answer, 502, "upstream_error")


@check(CHAT, asking("Fail before the first token.", **STREAM), replayed=True)
def error_first_stream(answer: Answer) -> None:
    shapes.error(answer, 502, "upstream_error")


@check(CHAT, asking("Fail in the middle.", **STREAM), replayed=True)
def error_stream(answer: Answer) -> None:
    found = shapes.broken(answer)
    assert found["code"] in ("upstream_error", "upstream_reset", "upstream_protocol_error")


@check(CHAT, asking("Be too busy."), replayed=True)
def overloaded(answer: Answer) -> None:
    shapes.error(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1


@check(CHAT, asking("Refuse the key."), replayed=True)
def refused(answer: Answer) -> None:
    shapes.error(answer, 502, "upstream_auth_error")


# --- the client leaves


@check(CHAT, COUNTING | STREAM)
async def cancel_stream(stage: Stage) -> None:
    await _leave_in_time(stage, CHECKS["cancel_stream"].body, b"data: {")


@check(CHAT, COUNTING)
async def cancel_whole(stage: Stage) -> None:
    await _leave_in_time(stage, CHECKS["cancel_whole"].body, None)


async def _leave_in_time(stage: Stage, body: Any, seen: bytes | None) -> None:
    times: list[float] = []
    while not times or (times[-1] > LEFT and len(times) < TRIES):
        times.append(await _leave(stage, body, seen))
    assert times[-1] <= LEFT, f"the engine's connection was closed after {times} s"


async def _leave(stage: Stage, body: Any, seen: bytes | None) -> float:
    """Leave once the answer holds `seen`, or the engine has the request. For how many seconds it stayed connected."""
    watch, data = stage.watch, json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    async with asyncio.timeout(PATIENCE):
        reader, writer = await stage.served.connect()
        try:
            writer.write(head.encode() + data)
            await watch.begun()
            if seen is not None:
                await reader.readuntil(seen)
            assert watch.busy, "the answer was complete before the client could leave"
            before = asyncio.get_running_loop().time()
        finally:
            writer.close()
        await watch.let_go()
        return asyncio.get_running_loop().time() - before


# --- health and load


@check("/readyz")
def health_ready(answer: Answer) -> None:
    assert answer.status == 200 and answer.json() == {"status": "ready"}


@check(CHAT, asking(), replayed=True)
async def health_loading(stage: Stage) -> None:
    shapes.error(await stage.ask("/readyz", None), 503, "no_healthy_backend")
    (backend,) = await _backends(stage)
    assert backend["state"] == "loading"
    own = CHECKS["health_loading"]
    shapes.error(await stage.ask(own.path, own.body), 503, "model_loading")


@check(replayed=True)
async def health_down(stage: Stage) -> None:
    shapes.error(await stage.ask("/readyz", None), 503, "no_healthy_backend")
    (backend,) = await _backends(stage)
    assert backend["state"] == "down"


@check()
async def signals(stage: Stage) -> None:
    known = set(stage.engine.signals_of([None] * len(stage.engine.signal_calls())))
    assert known, "the engine tells nothing"
    async with asyncio.timeout(PATIENCE):
        while True:
            (backend,) = await _backends(stage)
            told = {name: reading["status"] for name, reading in backend["signals"].items()}
            if set(told.values()) == {"ok"}:
                break
            await asyncio.sleep(0.05)  # signals are read in their own time; nothing tells when
    assert set(told) == known


async def _backends(stage: Stage) -> list[dict[str, Any]]:
    answer = await stage.ask("/gateway/backends", None)
    assert answer.status == 200, answer.body[:500]
    return list(answer.json())

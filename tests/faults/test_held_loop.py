"""Nothing that a client sends holds the loop: large bodies are looked over in slices, and refused before they are read.

`tests.faults.held` says how long each takes; here others get their turns, and what was sent is what the engine gets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from backends.surfaces.structure import Structure
from gateway.api.reading import LARGE, SLICE
from gateway.fake.engine import FakeEngine
from tests.faults.held import CHAT, REQUESTS, measured, post
from tests.serving import Served, serving

CONFIG = """
server: {{listen: "127.0.0.1:0", limits: {{body: 4MiB, values: 100000}}}}
backends: {{one: {{engine: openai, url: "{url}", models: [up]}}}}
models: {{model-7: {{targets: {{one: up}}}}}}
"""
MANY = [
    "5 million messages",
    "3 million empty messages",
    "5 million items of no known member",
    "lists in lists",
    "a million keys below",
    "one key a million times",
    "3 million texts to embed",
    "5 million tokens",
]


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(models=["up"], rules=[{"say": "one"}]) as engine:
        yield engine


@pytest_asyncio.fixture
async def served(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Served]:
    async with serving(tmp_path, CONFIG.format(url=engine.url)) as served:
        yield served


@pytest.mark.parametrize("name", MANY)
async def test_a_body_of_too_many_values_is_refused_before_it_is_read(
    name: str, served: Served, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    feed = Structure.feed

    def watched(self: Structure, piece: bytes) -> None:
        fed.append(len(piece))
        feed(self, piece)

    monkeypatch.setattr(Structure, "feed", watched)
    head, _, body = REQUESTS[name]().partition(b"\r\n\r\n")
    path = head.split(b" ")[1].decode()
    turns, answer = await measured(served, post(path, body[: 3 << 20]))
    assert (answer.status, answer.error["code"]) == (413, "too_many_values")
    assert "server.limits.values" in answer.error["message"]
    assert max(fed) <= SLICE and sum(fed) < 2 << 20 and turns.count > len(fed)
    assert {asked.method for asked in engine.requests} <= {"GET"}


@pytest.mark.parametrize("text", ["a" * 3_000_000, '\u901a\u4e49, "[{' * 200_000, "\n\\" * 400_000])
async def test_a_large_body_reaches_the_engine_as_it_was_sent(
    text: str, served: Served, engine: FakeEngine
) -> None:
    sent = {
        "messages": [{"role": "user", "content": text}],
        "n": 1,
        "model": "model-7",
        "x": [{"model": "y"}],
    }
    body = json.dumps(sent, ensure_ascii=False).encode()
    turns, answer = await measured(served, post(CHAT, body))
    assert answer.status == 200
    assert engine.requests[-1].json() == sent | {"model": "up"}
    assert turns.count > len(body) // SLICE


async def test_a_limit_below_that_size_counts_too(tmp_path: Path, engine: FakeEngine) -> None:
    text = CONFIG.format(url=engine.url).replace("100000", "1000")
    async with serving(tmp_path, text) as served:
        body = {"model": "model-7", "messages": [{}], "x": [1] * 2000}
        assert (await served.post(CHAT, body)).error["code"] == "too_many_values"
        body["x"] = ["1, 2, 3"] * 900
        assert (await served.post(CHAT, body)).status == 200


BROKEN = {
    "no UTF-8": (b'{"model":"model-7","messages":["' + b"\xff" * LARGE + b'"]}', 400, "invalid_json"),
    "half a character": (
        b'{"model":"model-7","messages":["' + b"a" * LARGE + b"\xe9\x80",
        400,
        "invalid_json",
    ),
    "no JSON": (b'{"model":"model-7","messages":["' + b"a" * LARGE, 400, "invalid_json"),
    "a long name": (b'{"messages":[{}],"model":"' + b"a" * LARGE + b'"}', 400, "invalid_value"),
    "another model": (b'{"messages":["' + b"a" * LARGE + b'"],"model":"other"}', 404, "model_not_found"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_wrong_with_a_large_body_is_told(name: str, served: Served) -> None:
    body, status, code = BROKEN[name]
    answer = await served.post(CHAT, body)
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_who_leaves_while_a_body_is_read_leaves_nothing_behind(
    served: Served, engine: FakeEngine
) -> None:
    body = json.dumps({"model": "model-7", "messages": [{"content": "a" * 3_000_000}]}).encode()
    for waits in range(6):
        _, writer = await served.connect()
        writer.write(post(CHAT, body))
        await writer.drain()
        for _ in range(waits * 3):
            await asyncio.sleep(0)
        writer.transport.abort()
    async with asyncio.timeout(10):
        while served.gateway.core.register.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await served.post(CHAT, {"model": "model-7", "messages": [{}]})).status == 200

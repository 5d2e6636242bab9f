"""The gateway in front of a real Triton: what only a running model can show. The rest is the conformance suite's.

`make test-engines` runs it, as it makes the environment that the server runs from.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backends.base import Action, Health
from gateway.wire.ask import ask
from tests.engines import triton
from tests.serving import Answer, Served, serving

pytestmark = pytest.mark.engines

CONFIG = """
backends:
  triton: {{engine: triton, url: "{url}", metrics_url: "{metrics_url}", options: {{tokenizer: models/demo}}}}
models:
  public: {{targets: {{triton: demo}}}}
  spare: {{targets: {{triton: spare}}}}
"""
PATIENCE = 20.0
"""Seconds until something that should happen counts as not happening."""


@pytest.fixture(scope="module")
def server() -> Iterator[triton.Server]:
    with triton.running() as started:
        yield started


@contextlib.asynccontextmanager
async def gateway(server: triton.Server, folder: Path) -> AsyncIterator[Served]:
    text = CONFIG.format(url=server.url, metrics_url=server.metrics_url)
    async with serving(folder, text) as served:
        yield served


def question(text: str = "What can you do?", **more: object) -> dict[str, object]:
    return {"model": "public", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


async def metric(server: triton.Server, name: str) -> float:
    """Return a sample of the demo model on Triton's metrics page; ask until Triton has written it."""
    host, _, port = server.metrics_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    page = Answer.read(await reader.read()).body.decode()
    writer.close()
    wanted = (line for line in page.splitlines() if line.startswith(f'{name}{{model="demo"'))
    return float(next(wanted).rsplit(" ", 1)[1])


async def test_it_knows_its_tokens(server: triton.Server, tmp_path: Path) -> None:
    async with gateway(server, tmp_path) as served:
        before = await metric(server, "demo_tokens_total")
        answer = await served.post("/v1/chat/completions", question())
        counts = answer.json()["usage"]
        assert answer.json()["choices"][0]["message"]["content"].startswith("I can answer short questions")
        async with asyncio.timeout(PATIENCE):
            while await metric(server, "demo_tokens_total") - before != counts["completion_tokens"]:
                pass
        assert counts["prompt_tokens"] == 16


@pytest.mark.parametrize("stream", [True, False])
async def test_the_model_hears_that_its_client_left(
    server: triton.Server, stream: bool, tmp_path: Path
) -> None:
    async with gateway(server, tmp_path) as served, asyncio.timeout(PATIENCE):
        cancelled, made = [await metric(server, f"demo_{name}_total") for name in ("cancelled", "tokens")]
        body = json.dumps(question("Count to one hundred.", stream=stream, max_tokens=1000)).encode()
        reader, writer = await served.connect()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            await reader.readuntil(b"data: {")
        while await metric(server, "demo_tokens_total") == made:
            pass
        writer.close()
        while await metric(server, "demo_cancelled_total") == cancelled:
            pass


async def test_models_come_and_go(server: triton.Server, tmp_path: Path) -> None:
    async with gateway(server, tmp_path) as served:
        backend = served.gateway.pool.backends["triton"]
        assert backend.upstream is not None and backend.health is Health.READY
        asked = question(max_tokens=3) | {"model": "spare"}
        missing = await served.post("/v1/chat/completions", asked)
        assert missing.status == 502 and missing.error["code"] == "upstream_model_missing"
        load = backend.engine.action(Action.LOAD, {"model": "spare"})
        assert await ask(backend.upstream, load, PATIENCE) == (200, b"")
        answer = await served.post("/v1/chat/completions", asked)
        assert answer.json()["choices"][0] | {"message": None} == {
            "index": 0,
            "logprobs": None,
            "finish_reason": "length",
            "message": None,
        }
        unload = backend.engine.action(Action.UNLOAD, {"model": "spare"})
        assert await ask(backend.upstream, unload, PATIENCE) == (200, b"")
        gone = await served.post("/v1/chat/completions", asked)
        assert gone.status == 502 and gone.error["code"] == "upstream_model_missing"
        assert (await served.post("/v1/chat/completions", question(max_tokens=3))).status == 200

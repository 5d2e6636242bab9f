"""What an operator asks and orders of a gateway with two workers: the answer is that of both, and both obey."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.support import question
from tests.processes import children
from tests.serving import Answer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STREAMS = 16
"""Connections that the kernel spreads over the workers; that one gets none of them is one chance in 30,000."""


class Two:
    """`gateway serve --workers 2` as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request on a connection of its own."""
        data = b"" if body is None else json.dumps(body).encode()
        sent = {"host": "localhost", "connection": "close", **headers}
        if body is not None:
            sent |= {"content-type": "application/json", "content-length": f"{len(data)}"}
        head = "\r\n".join(f"{name.replace('_', '-')}: {value}" for name, value in sent.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n\r\n".encode() + data)
            return Answer.read(await asyncio.wait_for(reader.read(), 30))
        finally:
            writer.close()

    def chat(self, id: str = "", stream: bool = False) -> asyncio.Task[Answer]:
        headers = {"x_request_id": id} if id else {}
        call = self.ask("POST", "/v1/chat/completions", question("m", stream=stream), **headers)
        return asyncio.create_task(call)

    def workers(self) -> list[int]:
        return [pid for pid, command in children(self.process.pid) if " worker " in command]


@contextlib.asynccontextmanager
async def two(folder: Path, more: str = "") -> AsyncIterator[tuple[Two, FakeEngine]]:
    async with FakeEngine(models=["m"]) as engine:
        file = folder / "gateway.yaml"
        file.write_text(
            'server: {listen: "127.0.0.1:0"}\n'
            f'backends: {{a: {{engine: openai, url: "{engine.url}", models: [m]}}}}\n' + more
        )
        command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        try:
            first = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
            gateway = Two(process, int(re.findall(r":(\d+)", first)[-1]))
            await both_serve(gateway)
            yield gateway, engine
        finally:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 30)


async def both_serve(gateway: Two) -> None:
    """Wait until both workers answer, and have found the engine."""
    for _ in range(600):
        status = (await gateway.ask("GET", "/gateway/status")).json()
        if status["processes"] == 2 and status["ready"]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("both workers should serve by now")


async def test_requests_of_all_workers_are_shown_and_cancelled(tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, engine):
        engine.set(rules=[{"endless": True, "gap": 0.05, "text": "count"}])
        streams = [gateway.chat(f"r{number}", stream=True) for number in range(STREAMS)]
        await engine.until(lambda: sum(each.events > 0 for each in engine.requests) == STREAMS, 20)
        for _ in range(4):
            shown = (await gateway.ask("GET", "/gateway/requests?limit=5")).json()
            assert (shown["total"], len(shown["requests"])) == (STREAMS, 5)
            ages = [row["age"] for row in shown["requests"]]
            assert ages == sorted(ages, reverse=True)
            status = (await gateway.ask("GET", "/gateway/status")).json()
            assert status["phases"] == {"stream": STREAMS}
            [model] = (await gateway.ask("GET", "/gateway/models")).json()
            assert model["targets"][0]["in_flight"] == STREAMS
        for number in range(STREAMS):
            answer = await gateway.ask("DELETE", f"/gateway/requests/r{number}")
            assert answer.json() == {"id": f"r{number}", "cancelled": 1}
        for answer in await asyncio.gather(*streams):
            assert answer.events[-1]["error"]["code"] == "cancelled_by_operator"
        assert (await gateway.ask("DELETE", "/gateway/requests/r0")).status == 404
        assert (await gateway.ask("GET", "/gateway/requests")).json() == {"total": 0, "requests": []}


async def test_a_canary_begins_again_in_all_workers(tmp_path: Path) -> None:
    growth = "steps: [50%, 100%], interval: 1h, samples: 10"
    route = f"{{name: next, to: {{canary: {{model: n, against: m, {growth}}}}}}}"
    models = f"models: {{m: {{targets: {{a: m}}}}, n: {{targets: {{a: m}}}}}}\nroutes: [{route}]\n"
    async with two(tmp_path, models) as (gateway, _):

        async def counted() -> list[str]:
            (canary,) = (await gateway.ask("GET", "/gateway/canaries")).json()
            assert canary["route"] == "next"
            return [each["progress"].partition(", with ")[2] for each in canary["processes"]]

        for _ in range(10):
            await asyncio.gather(*(gateway.chat() for _ in range(STREAMS)))
            found = await counted()
            if not any(text.startswith("0 requests") for text in found):
                break
        assert len(found) == 2
        assert not any(text.startswith("0 requests") for text in found)
        begun = await gateway.ask("POST", "/gateway/canaries/next/reset")
        assert len(begun.json()["processes"]) == 2
        for text in await counted():
            assert text.startswith("0 requests of the canary and 0 of the incumbent")


async def test_all_workers_obey_and_so_does_one_that_comes_later(tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, _):
        shown = (await gateway.ask("POST", "/gateway/backends/a/drain", {"for": "1h"})).json()
        assert shown["state"] == "drained"
        for answer in await asyncio.gather(*(gateway.chat() for _ in range(STREAMS))):
            assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")
        before = gateway.workers()
        os.kill(before[0], signal.SIGKILL)
        for _ in range(600):
            if len(set(gateway.workers()) - {before[0]}) == 2:
                break
            await asyncio.sleep(0.05)
        for _ in range(600):
            if (await gateway.ask("GET", "/gateway/status")).json()["processes"] == 2:
                break
            await asyncio.sleep(0.05)
        for answer in await asyncio.gather(*(gateway.chat() for _ in range(STREAMS))):
            assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")
        page = (await gateway.ask("GET", "/metrics")).body.decode()
        assert 'gateway_backend_drained{backend="a"} 1.0' in page
        await gateway.ask("POST", "/gateway/backends/a/undrain")
        await both_serve(gateway)
        for answer in await asyncio.gather(*(gateway.chat() for _ in range(STREAMS))):
            assert answer.status == 200

"""`gateway batch` as a process that is killed and interrupted: the next run sends what is left, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients.process import GATEWAY
from tests.faults.clients import config
from tests.serving import serving

LINES = 400


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    file, output = tmp_path / "in.jsonl", tmp_path / "in.out.jsonl"
    file.write_text("".join(json.dumps(f"line {number}") + "\n" for number in range(LINES)))
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 0.02, "text": "echo"}) as engine,
        serving(tmp_path, config(engine.url), alone=False) as served,
    ):
        words = ["batch", str(file), "--model", "m", "--url", served.url, "--concurrency", "4"]
        before = 0
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            process = await asyncio.create_subprocess_exec(GATEWAY, *words, stderr=asyncio.subprocess.PIPE)
            async with asyncio.timeout(40):
                while (now := output.read_bytes().count(b"\n") if output.exists() else 0) <= before + 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            before = now
            process.send_signal(number)
            await process.communicate()
            assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert before < LINES
        process = await asyncio.create_subprocess_exec(GATEWAY, *words, stderr=asyncio.subprocess.PIPE)
        _, told = await process.communicate()
        assert process.returncode == 0, told
        assert f"{LINES}/{LINES}".encode() in told
        rows = [json.loads(each) for each in output.read_text().splitlines()]
        assert Counter(row["custom_id"] for row in rows) == Counter(f"line-{n + 1}" for n in range(LINES))
        sent = sum(each.path.endswith("/completions") for each in engine.journal.exchanges)
        assert sent <= LINES + 3 * 4

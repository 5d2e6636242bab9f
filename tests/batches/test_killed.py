"""A gateway that is killed in the middle of a batch, again and again: each line is answered once in the files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from gateway.batches.lines import answered
from gateway.batches.results import Results
from gateway.fake.engine import FakeEngine
from tests.batches.flow import config_of, jsonl, line
from tests.clients.process import GATEWAY

LINES = 1500
KILLS = 4


@contextlib.asynccontextmanager
async def running(
    config: Path, *more: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, openai.AsyncOpenAI]]:
    """Run a gateway as a process of its own. At the end it is killed, if it still lives."""
    process = await asyncio.create_subprocess_exec(
        GATEWAY, "serve", config, *more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(40):
            while (found := re.search(rb"http://[\d.]+:\d+", await process.stdout.readline())) is None:
                assert process.returncode is None
        async with openai.AsyncOpenAI(
            base_url=f"{found[0].decode()}/v1", api_key="none", max_retries=5
        ) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def done(client: openai.AsyncOpenAI, id: str) -> int:
    counts = (await client.batches.retrieve(id)).request_counts
    assert counts is not None
    return counts.completed


@pytest.mark.slow
@pytest.mark.timeout(170)
async def test_each_line_is_answered_once_however_often_the_gateway_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    async with FakeEngine(models=["up"], defaults={"text": "echo", "first_token": 0.02}) as engine:
        config.write_text(config_of(tmp_path, engine.url, server="batches: {concurrency: 8}"))
        async with running(config) as (process, client):
            data = jsonl([line(f"n{number}") for number in range(LINES)])
            file = await client.files.create(file=("in.jsonl", data), purpose="batch")
            made = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            process.kill()
            await process.wait()
        before = 0
        for _ in range(KILLS):
            async with running(config) as (process, client):
                async with asyncio.timeout(60):
                    while (now := await done(client, made.id)) <= before:  # noqa: ASYNC110 (it is polled)
                        await asyncio.sleep(0.05)
                process.kill()
                await process.wait()
            assert now < LINES, "it was killed in the middle"
            before = now
        output = tmp_path / "data" / "files" / "files" / f"file-{made.id.removeprefix('batch_')}-output"
        with output.open("ab") as torn:
            torn.write(answered(made.id.removeprefix("batch_"), LINES, "torn", 200, "r", b"{}")[:40])
        async with running(config) as (process, client):
            async with asyncio.timeout(90):
                while (found := await client.batches.retrieve(made.id)).status != "completed":
                    assert found.status in ("in_progress", "finalizing")
                    await asyncio.sleep(0.1)
            assert found.request_counts is not None
            assert found.output_file_id is not None
            assert (found.request_counts.completed, found.request_counts.failed) == (LINES, 0)
            text = (await client.files.content(found.output_file_id)).text
            process.terminate()
            assert await process.wait() == 0
        rows = [json.loads(each) for each in text.splitlines()]
        assert Counter(row["custom_id"] for row in rows) == Counter(f"n{number}" for number in range(LINES))
        spent = [row["response"]["body"]["usage"]["total_tokens"] for row in rows]
        assert found.usage is not None and found.usage.total_tokens == sum(spent) > 0
        for row in rows:
            assert row["response"]["body"]["choices"][0]["message"]["content"] == row["custom_id"]
        sent = sum(each.path.endswith("/completions") for each in engine.journal.exchanges)
        assert sent <= LINES + (KILLS + 1) * 100, "what was done is not done again"


def test_what_is_torn_doubled_or_no_line_is_cut_off(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    whole = [answered("ab", number, f"n{number}", 200, "r", b'{"a":1}') for number in range(1, 6)]
    for tail in (
        b"",
        whole[4][:-1],
        whole[4][:20],
        b"\0" * 50 + b"\n",
        whole[0] + whole[4],
        b"{}\n" + whole[4],
    ):
        good.write_bytes(b"".join(whole[:3]) + tail)
        bad.write_bytes(whole[3])
        results = Results(good, bad, 6)
        assert [results.is_done(number) for number in range(1, 7)] == [True] * 4 + [False] * 2
        assert (results.completed, results.failed) == (3, 1)
        results.add(5, whole[4], True)
        assert (results.completed, results.is_done(5), results.pending) == (3, True, len(whole[4]))
        results.write(results.take())
        results.sync()
        results.close()
        assert good.read_bytes() == b"".join([*whole[:3], whole[4]])
        assert bad.read_bytes() == whole[3]

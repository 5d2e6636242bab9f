"""Several processes on one store: each batch is worked on by one of them, and every process answers for all."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import openai
import pytest

from gateway.fake.engine import FakeEngine
from tests.batches.flow import config_of, jsonl, line
from tests.batches.test_killed import running

BATCHES, LINES = 6, 60


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_workers_share_the_batches(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    async with FakeEngine(models=["up"], defaults={"first_token": 0.01}) as engine:
        config.write_text(config_of(tmp_path, engine.url, server="batches: {concurrency: 4}"))
        async with running(config, "--workers", "2") as (process, client):
            made = await asyncio.gather(*(begun(client, number) for number in range(BATCHES)))
            for each in made:
                async with asyncio.timeout(60):
                    while (found := await client.batches.retrieve(each)).status != "completed":  # noqa: ASYNC110 (it is polled)
                        await asyncio.sleep(0.1)
                assert found.request_counts is not None and found.output_file_id is not None
                assert found.request_counts.completed == LINES
                text = (await client.files.content(found.output_file_id)).text
                names = Counter(json.loads(row)["custom_id"] for row in text.splitlines())
                assert names == Counter(f"n{number}" for number in range(LINES))
            process.terminate()
            assert await process.wait() == 0
        sent = sum(each.path.endswith("/completions") for each in engine.journal.exchanges)
        assert sent == BATCHES * LINES


async def begun(client: openai.AsyncOpenAI, number: int) -> str:
    data = jsonl(line(f"n{each}") for each in range(LINES))
    file = await client.files.create(file=(f"{number}.jsonl", data), purpose="batch")
    made = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return made.id

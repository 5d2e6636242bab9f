"""LoRA adapters under a gateway with two workers: each loads for itself what the other has loaded already."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.support import question
from tests.fleet.test_adapters import AGAIN, LOAD, LOADS, SAID, did
from tests.test_workers_on_demand import two

pytestmark = pytest.mark.slow


async def test_an_adapter_that_the_other_worker_has_loaded_counts_as_loaded(tmp_path: Path) -> None:
    again = {"match": {"path": LOAD, "after": 1}, "reply": {"status": 400, "body": AGAIN}}
    text = """
server: {{listen: "127.0.0.1:0"}}
backends: {{one: {{engine: vllm, url: "{url}", models: [up]}}}}
models: {{base: {{targets: {{one: up}}, loras: {{ada: /loras/ada}}}}}}
"""
    async with (
        FakeEngine(models=["up"], rules=[again, *LOADS, SAID]) as one,
        two(tmp_path, text.format(url=one.url)) as gateway,
    ):
        body = question("ada")
        answers = await asyncio.gather(
            *(gateway.ask("POST", "/v1/chat/completions", body) for _ in range(40))
        )
        assert {answer.status for answer in answers} == {200}
        assert did(one).count("ada") == 40 and 1 <= did(one).count("+ada") <= 2

"""GuideLLM, which measures servers, at an engine that speaks only OpenAI's chat: what it counts is what was sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.clients import packages
from tests.clients.calling import CHAT, config
from tests.clients.declared import GUIDELLM
from tests.serving import serving

COUNT = 6

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(500)]


async def test_guidellm_measures_streams(tmp_path: Path) -> None:
    python = packages.of_pypi("guidellm", *GUIDELLM.packages)
    prompts = [json.dumps({"prompt": f"What is the number {number}?"}) for number in range(2 * COUNT)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    rule = {"match": {"path": CHAT}, "say": "word0 word1 word2 word3"}
    async with FakeEngine(rules=[rule]) as fake, serving(tmp_path, config(fake)) as served:
        ended = await packages.ran(
            *(python.with_name("guidellm"), "run", "--disable-console-interactive"),
            *("--backend", f"kind=openai_http,target={served.url},model=m"),
            *("--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={COUNT}"),
            *("--data", "kind=json_file,path=prompts.jsonl", "--output", "kind=json,path=found.json"),
            folder=tmp_path,
            home=tmp_path,
            settings={},
            patience=300,
        )
        assert ended.status == 0, ended
        [measured] = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
        totals = measured["metrics"]["request_totals"]
        assert (totals["successful"], totals["errored"]) == (COUNT, 0)
        assert served.metric("gateway_requests_total", operation="chat", outcome="ok") >= COUNT

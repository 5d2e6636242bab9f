"""An answer that is complete before its engine ends it: the client has all of it at once, and the engine is left.

LMDeploy does not hear stop strings of several tokens, so the gateway ends its answers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.serving import Served, serving

ENDLESS: dict[str, Any] = {"endless": True, "gap": 0.005, "say": "one two END three"}


def question(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "a"}], "stop": "END", **more}


async def ask(folder: Path, **more: Any) -> tuple[FakeEngine, Served, Any]:
    """Ask an engine that comes to no end; return it, and the answer, after it has been left."""
    async with FakeEngine(models=["m"], rules=[ENDLESS]) as engine:
        text = f'backends: {{a: {{engine: lmdeploy, url: "{engine.url}"}}}}'
        async with serving(folder, text) as served, asyncio.timeout(20):
            answer = await served.post("/v1/chat/completions", question(**more))
            await engine.until(lambda: engine.journal.totals.aborted == 1)
            assert not served.gateway.pool.backends["a"].breaker.open
            # The connection to the engine is gone, and the next request has another one.
            await served.post("/v1/chat/completions", question(**more))
            assert served.metric("gateway_requests_total", outcome="ok") == 2
        return engine, served, answer


async def test_a_stream_ends_at_its_stop_string_and_the_engine_is_left(tmp_path: Path) -> None:
    _, _, answer = await ask(tmp_path, stream=True)
    *events, end = answer.events
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "one two "
    assert choices[-1]["finish_reason"] == "stop" and end == "[DONE]" and answer.whole


async def test_a_whole_answer_ends_at_its_stop_string_and_the_engine_is_left(tmp_path: Path) -> None:
    _, _, answer = await ask(tmp_path)
    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "stop")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_engine_goes_on_until_every_choice_has_ended(tmp_path: Path, stream: bool) -> None:
    async with FakeEngine(models=["m"], rules=[{"say": "one END two three"}]) as engine:
        text = f'backends: {{a: {{engine: lmdeploy, url: "{engine.url}"}}}}'
        async with serving(tmp_path, text) as served:
            answer = await served.post("/v1/chat/completions", question(n=2, stream=stream))
            choices: dict[int, str] = {}
            for event in answer.events[:-1] if stream else [answer.json()]:
                for choice in event["choices"]:
                    said = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
                    choices[choice["index"]] = choices.get(choice["index"], "") + said
            assert choices == {0: "one ", 1: "one "}

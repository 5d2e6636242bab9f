"""Two healthy frontends of Triton's, played from real replies: no client's mistake and no full queue ejects one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.checks import CHAT, TOO_LONG, asking
from tests.conformance.playing import RECORDINGS
from tests.conformance.replay import Recording, in_order, recordings, replaying
from tests.serving import serving

CONFIG = """
backends:
  one: {{engine: triton, url: "{one}", options: {{api: openai}}, models: [demo]}}
  two: {{engine: triton, url: "{two}", options: {{api: openai}}, models: [demo]}}
models:
  public: {{targets: {{one: demo, two: demo}}}}
"""
TIMES = 6
"""More than a breaker takes by default."""


def recorded() -> list[Recording]:
    return in_order(recordings(RECORDINGS / "triton-openai"), "")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (asking(TOO_LONG), 400, "context_length_exceeded"),
        (asking(TOO_LONG, stream=True), 400, "context_length_exceeded"),
        (asking() | {"max_tokens": 0}, 400, "invalid_value"),
        (asking() | {"top_p": 0}, 400, "invalid_value"),
        (asking("Be too busy."), 503, "overloaded"),
    ],
    ids=["too long", "too long, streamed", "no token", "no probability", "a full queue"],
)
async def test_no_breaker_opens(asked: dict[str, Any], status: int, code: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        urls = {name: (await stack.enter_async_context(replaying(recorded()))).url for name in ("one", "two")}
        served = await stack.enter_async_context(serving(tmp_path, CONFIG.format(**urls), alone=False))
        for _ in range(TIMES):
            answer = await served.post(CHAT, asked)
            assert (answer.status, answer.error["code"]) == (status, code), answer.body[:300]
        assert not any(backend.breaker.open for backend in served.gateway.pool.backends.values())
        assert (await served.post(CHAT, asking())).status == 200

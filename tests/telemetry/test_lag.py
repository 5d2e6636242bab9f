"""A loop that is held is seen to be late, and that is forgotten after a while."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.telemetry import lag
from tests.faults.clients import until


async def test_a_held_loop_is_late_until_that_is_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "EVERY", 0.01)
    monkeypatch.setattr(lag, "WINDOW", 0.2)
    seen = lag.Lag()
    seen.start()
    await asyncio.sleep(0.05)
    time.sleep(0.5)  # noqa: ASYNC251 (so that the loop is held)
    assert seen.longest >= 0.4, "also before the loop goes on"
    await asyncio.sleep(0.05)
    assert seen.longest >= 0.4
    await until(lambda: seen.longest < 0.4, "it is forgotten")
    seen.stop()

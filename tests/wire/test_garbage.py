"""A request leaves nothing that only the garbage collector could find.

Circles of references would be collected in pauses of tens of milliseconds, in the middle of everybody's streams.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.support import question, stage

REQUESTS = 20
ALLOWED = REQUESTS // 4
"""Circles that other things leave meanwhile, such as probes and the test's own client."""


@pytest.fixture
def collector() -> Iterator[None]:
    """Yield the collector keeps what it finds, and finds only what this test left.

    What is there already, garbage too, is set aside: hundreds of thousands of objects of every test module, which take
    seconds to look through.
    """
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["calm", "nowhere"], ids=["answered", "refused"])
async def test_requests_leave_no_circles(tmp_path: Path, collector: None, stream: bool, model: str) -> None:
    async with stage(tmp_path) as at:
        await at.ask(model, stream=stream)
        gc.collect()
        gc.garbage.clear()
        for _ in range(REQUESTS):
            answer = await at.served.post("/v1/chat/completions", question(model, stream=stream))
            assert answer.status == (200 if model == "calm" else 404)
        gc.collect()
        left = Counter(type(found).__qualname__ for found in gc.garbage)
        ours = {
            "Attempt",
            "Connection",
            "Door",
            "EventStream",
            "Exchange",
            "Head",
            "HeadReader",
            "HttpRequestParser",
            "Journey",
            "RequestResponseCycle",
            "Task",
            "Timeline",
        }
        assert not {name: count for name, count in left.items() if name in ours and count > ALLOWED}, left

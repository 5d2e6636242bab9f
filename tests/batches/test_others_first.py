"""Lines of batches wait behind everybody else, however long they wait, and take no place in a queue from anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.fake.engine import FakeEngine
from tests.batches.flow import CHAT, begun, chat, ended, keeping, line

SLOTS = 2
SERVICE = 0.05
"""Seconds that the engine takes for a request."""


async def test_interactive_requests_go_first_at_a_loaded_gate(tmp_path: Path) -> None:
    """Each of them is first in the queue, and waits for a line that is under way at most, never for one that waits."""
    admission = f"admission: {{concurrency: {SLOTS}, queue: 64, ageing: 0.05s}}"
    async with (
        FakeEngine(models=["up"], defaults={"first_token": SERVICE}) as engine,
        keeping(
            tmp_path,
            engine,
            server="batches: {concurrency: 32}",
            models=f"{{targets: {{e0: up}}, {admission}}}",
        ) as served,
    ):
        made = await begun(served, [line(f"line{number}") for number in range(150)])
        async with asyncio.timeout(20):
            while served.metric("gateway_requests_queued", priority="background") < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        positions = []
        for number in range(20):
            answer = await served.post(CHAT, chat(f"person{number}"))
            assert answer.status == 200
            positions.append(answer.headers.get("x-gateway-queue-position", "0"))
        assert set(positions) <= {"0", "1"}, "whatever waits is behind it, also what has waited for long"
        assert "1" in positions, "the gate was loaded"
        order = [each.json()["messages"][0]["content"] for each in engine.journal.exchanges if each.body]
        between = [
            sum(
                text.startswith("line")
                for text in order[order.index(f"person{n}") + 1 : order.index(f"person{n + 1}")]
            )
            for n in range(19)
        ]
        assert max(between) <= 2 * SLOTS + 1, "no more lines than slots become free in the meantime"
        found = await ended(served, made["id"])
        assert found["request_counts"] == {"total": 150, "completed": 150, "failed": 0}


async def test_a_full_queue_has_room_for_interactive_requests(tmp_path: Path) -> None:
    """The lines fill the queue; each request of a person takes a place from one, which is sent again."""
    async with (
        FakeEngine(models=["up"], defaults={"first_token": SERVICE}) as engine,
        keeping(
            tmp_path,
            engine,
            server="batches: {concurrency: 32}",
            models="{targets: {e0: up}, admission: {concurrency: 1, queue: 4}}",
        ) as served,
    ):
        made = await begun(served, [line(f"line{number}") for number in range(30)])
        async with asyncio.timeout(20):
            while served.metric("gateway_requests_queued", priority="background") < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(served.post(CHAT, chat(f"person{number}")) for number in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        found = await ended(served, made["id"], patience=100)
        assert found["request_counts"] == {"total": 30, "completed": 30, "failed": 0}

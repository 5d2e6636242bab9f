"""Nobody ever reads what was meant for another, however many come and go on however few connections."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from random import Random

from gateway.fake.engine import FakeEngine
from tests.faults.clients import Client, chat, config, http, rest, settled
from tests.serving import Answer, serving

CLIENTS, EACH = 64, 40
NONCE = re.compile(rb"nonce-\d+-\d+-end")


async def test_no_nonce_of_another_is_ever_seen(tmp_path: Path) -> None:
    """64 clients, 2560 requests, streamed and not, a third of them cut at any moment; two engines echo the prompt."""
    random = Random(11)
    seen = cancelled = 0
    echo = {"text": "echo", "gap": 0.0005}

    async def one(number: int, turn: int, caller: Client) -> bool:
        """One request; whether the connection may be used again."""
        nonlocal seen, cancelled
        nonce = f"nonce-{number}-{turn}-end"
        words = " ".join([nonce] * random.randrange(1, 6))
        await caller.send(http(chat(words, stream=random.random() < 0.7)))
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.01)
            caller.leave(random.choice(("FIN", "RST")))
            cancelled += 1
            return False
        answer: Answer = await caller.answer()
        assert answer.status == 200, answer.body
        found = NONCE.findall(answer.body)
        assert found
        assert set(found) == {nonce.encode()}
        seen += 1
        return True

    async def run(number: int, port: int) -> None:
        caller = await Client.connect(port)
        for turn in range(EACH):
            if not await one(number, turn, caller):
                caller = await Client.connect(port)
        caller.leave()

    async with (
        FakeEngine(models=["up"], defaults=echo) as first,
        FakeEngine(models=["up"], defaults=echo) as second,
        serving(
            tmp_path, config(first.url, second.url, model="admission: {concurrency: 24, queue: 100}")
        ) as served,
    ):
        await asyncio.gather(*(run(number, served.port) for number in range(CLIENTS)))
        await rest(served)
        assert seen + cancelled == CLIENTS * EACH
        assert cancelled > CLIENTS * EACH // 5
        assert served.metric("gateway_requests_total", outcome="ok") >= seen
        reused = sum(
            engine.journal.totals.started / engine.journal.totals.accepted for engine in (first, second)
        )
        assert reused > 2, "connections to the engines were not shared"
        await settled(served, first, second)

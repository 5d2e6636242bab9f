"""A client that goes away takes its work along: the engine stops computing what nobody will read."""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.request
from typing import Any

import openai
import pytest

from tests.clients.process import PATIENCE, Running, wait_until

pytestmark = pytest.mark.slow

TOKENS, CHOICES, PROMPTS = 1900, 4, 24
STREAM: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count to one hundred."}],
    "temperature": 0,
    "max_tokens": TOKENS,
    "n": CHOICES,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}
"""Work for every slot of the engine, for seconds."""
WHOLE: dict[str, Any] = {
    "model": "demo",
    "prompt": ["1 2 3"] * PROMPTS,
    "temperature": 0,
    "max_tokens": TOKENS,
    "extra_body": {"ignore_eos": True},
}
"""The same in one piece, and more of it: here llama.cpp takes a second to see that nobody waits any more."""
QUIET = 1.5
"""Seconds between two looks at the engine. For an answer that is not streamed llama.cpp sees that its client has left
only when for a second it has told nobody anything, and a look is something told."""


class Engine:
    """llama.cpp's own view of what it does."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self._url = gateway.engine()[0]
        self._headers = {"authorization": f"Bearer {gateway.engine_key()}"}

    @property
    def busy(self) -> bool:
        return any(self._slots())

    @property
    def full(self) -> bool:
        return all(self._slots())

    @property
    def generated(self) -> int:
        """Tokens generated since its start."""
        lines = self._get("/metrics").decode().splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("llamacpp:tokens_predicted_total ")]
        return int(value)

    def wait_idle(self) -> None:
        """Wait until nothing is computed, and the gateway knows."""
        in_flight = "gateway_requests_in_flight"
        wait_until(lambda: self._gateway.metric(in_flight) == 0, "the gateway has let go")
        wait_until(lambda: not self.busy, "the engine has stopped", every=QUIET)

    def _slots(self) -> list[bool]:
        return [slot["is_processing"] for slot in json.loads(self._get("/slots"))]

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
        return body


class Bill:
    """What was generated and who left since this was made."""

    def __init__(self, gateway: Running) -> None:
        self._gateway, self._engine = gateway, Engine(gateway)
        self._engine.wait_idle()
        self._generated, self._left = self._engine.generated, self._gone()

    def settle(self, all_of_it: int, left: int = 1) -> None:
        """Wait until the engine rests. It must have stopped early, and the gateway must know why."""
        self._engine.wait_idle()
        assert self._engine.generated - self._generated < all_of_it
        assert self._gone() - self._left == left

    def wait_for_full_engine(self) -> None:
        """Wait until every slot is taken."""
        wait_until(lambda: self._engine.full, "the engine is full")

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests are at the engine."""
        name = "gateway_requests_in_flight"
        wait_until(lambda: self._gateway.metric(name) == count, f"{count} requests are at the engine")

    def _gone(self) -> float:
        return self._gateway.metric("gateway_requests_total", outcome="client_gone")


@pytest.fixture
def bill(gateway: Running) -> Bill:
    return Bill(gateway)


def test_closing_a_stream(client: openai.OpenAI, bill: Bill) -> None:
    stream = client.chat.completions.create(**STREAM)
    assert len(list(itertools.islice(stream, 10))) == 10
    stream.close()
    bill.settle(TOKENS * CHOICES)


def test_leaving_a_raw_stream(client: openai.OpenAI, bill: Bill) -> None:
    with client.chat.completions.with_streaming_response.create(**STREAM) as response:
        assert next(response.iter_lines()).startswith("data: ")
    bill.settle(TOKENS * CHOICES)


async def test_cancelling_a_stream(async_client: openai.AsyncOpenAI, bill: Bill) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in await async_client.chat.completions.create(**STREAM):
            begun.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await cancel(task)
    await asyncio.to_thread(bill.settle, TOKENS * CHOICES)


async def test_cancelling_a_request_without_a_stream(async_client: openai.AsyncOpenAI, bill: Bill) -> None:
    task = asyncio.create_task(async_client.completions.create(**WHOLE))
    await asyncio.to_thread(bill.wait_for_requests, 1)
    await cancel(task)
    await asyncio.to_thread(bill.settle, TOKENS * PROMPTS)


async def test_leaving_the_queue_of_the_engine(async_client: openai.AsyncOpenAI, bill: Bill) -> None:
    """All slots are taken, so the second request waits in the engine."""
    first = asyncio.create_task(async_client.completions.create(**WHOLE))
    await asyncio.to_thread(bill.wait_for_full_engine)
    second = asyncio.create_task(async_client.embeddings.create(model="demo", input="hello"))
    await asyncio.to_thread(bill.wait_for_requests, 2)
    assert not second.done()
    await cancel(second)
    await cancel(first)
    await asyncio.to_thread(bill.settle, TOKENS * PROMPTS, left=2)


def test_a_client_that_loses_patience(client: openai.OpenAI, bill: Bill) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).completions.create(**WHOLE)
    bill.settle(TOKENS * PROMPTS)


def test_the_engine_works_on(client: openai.OpenAI, bill: Bill) -> None:
    """After all that nothing is stuck."""
    bill.settle(1, left=0)
    answer = client.chat.completions.create(**STREAM | {"stream": False, "extra_body": {}, "max_tokens": 5})
    assert len(answer.choices) == CHOICES


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

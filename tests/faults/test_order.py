"""One request after the other on a client's connection: what the one before leaves behind must not touch the next.

Rules:
- An answer that its client does not take holds up the requests behind it, and makes nothing grow meanwhile.
- The connection's clocks run for each request anew, whoever served the one before.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.wire.door import Door
from tests.faults.clients import at_rest, chat, client, config, http, settled, until
from tests.faults.peers import scripted
from tests.serving import Served, serving

ODD = ("X-Twice: 1", "X-Twice: 2")
"""Headers that are in order, and that the front door leaves to the full protocol."""
KINDS = {"plain": (), "odd": ODD}
SMALL_BUFFER = 4096
CONTENT = {"role": "assistant", "content": "x" * 8_000_000}
LARGE = json.dumps({"choices": [{"index": 0, "message": CONTENT, "finish_reason": "stop"}]}).encode()
LARGE_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(LARGE) + LARGE
)
"""More than the sockets of both ends hold."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"model":"up","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
END = b'data: {"model":"up","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def in_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_a_body_that_is_slow_after_an_answer(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {body: 300ms}")) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat()))
        assert (await caller.answer()).status == 200
        await caller.send(http(chat())[:-5])
        answer = await caller.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert await caller.rest() == b""
        await settled(served, engine)


async def test_an_idle_connection_is_closed_after_an_odd_request(tmp_path: Path) -> None:
    timeouts = "timeouts: {headers: 200ms, keep_alive: 500ms, body: 10s}"
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server=timeouts)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(), *ODD))
        assert (await caller.answer()).status == 200
        async with asyncio.timeout(5):
            assert await caller.rest() == b""


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
async def test_an_answer_behind_one_that_is_not_taken(
    first: str, second: str, pipelined: bool, tmp_path: Path
) -> None:
    sent = 0

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        if number == 1:
            writer.write(LARGE_ANSWER)
            return
        writer.write(HEAD)
        for _ in range(300):
            writer.write(in_chunk(TOKEN % (b"y" * 100_000)))
            sent += 1
            await writer.drain()
        writer.write(in_chunk(END) + b"0\r\n\r\n")

    async with (
        scripted(answer) as url,
        serving(tmp_path, config(url), alone=False) as served,
        client(served.port, SMALL_BUFFER) as caller,
    ):
        one, two = http(chat(), *KINDS[first]), http(chat(stream=True), *KINDS[second])
        await caller.send(one + two if pipelined else one)
        await until(lambda: answered(served) == 1, "the first answer is written")
        if not pipelined:
            await caller.send(two)
        await asyncio.sleep(0.5)
        assert sent < 150, "the second answer fills the memory"
        caller.leave("RST")
        await until(lambda: at_rest(served), "everything is given back")


@pytest.mark.parametrize("second", KINDS)
async def test_the_clock_of_an_answer_ends_with_it(second: str, tmp_path: Path) -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            writer.write(LARGE_ANSWER)
            return
        writer.write(HEAD)
        for _ in range(150):
            writer.write(in_chunk(TOKEN % b"y"))
            await asyncio.sleep(0.01)
        writer.write(in_chunk(END) + b"0\r\n\r\n")

    async with (
        scripted(answer) as url,
        serving(tmp_path, config(url, server="timeouts: {write: 1s}"), alone=False) as served,
        client(served.port, SMALL_BUFFER) as caller,
    ):
        await caller.send(http(chat()) + http(chat(stream=True), *KINDS[second]))
        await until(lambda: answered(served) == 1, "the first answer is written")
        assert (await caller.answer()).status == 200
        assert (await caller.answer()).whole


async def test_a_stop_between_two_requests(tmp_path: Path) -> None:
    """The second request is not complete, and the server stops in the turn of the loop in which it would be read."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        await until(lambda: bool(doors(served)), "it is connected")
        [door] = doors(served)
        door.data_received(http(b"not JSON") + b"POST /v1")
        door.shutdown()
        async with asyncio.timeout(5):
            assert (await caller.rest()).startswith(b"HTTP/1.1 400")


def answered(served: Served) -> float:
    return served.metric("gateway_attempts_total", result="ok")


def doors(served: Served) -> list[Door]:
    connections: set[Any] = served.server.server_state.connections
    return [each for each in connections if isinstance(each, Door)]

"""Clients that take their time: the engine waits with them, memory does not grow, and nobody is held for ever."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.wire.door import Door
from tests.faults.clients import (
    CHAT,
    PATIENCE,
    at_rest,
    chat,
    client,
    config,
    http,
    rest,
    said,
    settled,
    until,
)
from tests.serving import Answer, Served, serving

TOKENS = 1_500
BURST = {"say": "x" * 20_000, "tokens": TOKENS, "gap": 0}
"""Some 30 MB of events, as fast as they are taken."""
BOUND = 16 << 20
"""Bytes that fit into the kernel's buffers on both sides, and the gateway's own."""
SMALL = 4096


def answer_of(size: int) -> dict[str, Any]:
    """Return a chat completion that says so many letters."""
    message = {"role": "assistant", "content": "z" * size}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


async def stalled(engine: FakeEngine) -> int:
    """Wait until the engine can send no more; how many bytes it has sent."""
    sent, same = -1, 0
    async with asyncio.timeout(20):
        while same < 10:
            await asyncio.sleep(0.02)
            now = engine.requests[-1].bytes_sent
            sent, same = now, same + 1 if now == sent else 0
    return sent


async def test_who_does_not_read_pauses_the_engine_and_misses_nothing(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=BURST) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port, SMALL) as slow,
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await slow.send(http(chat(stream=True, max_tokens=TOKENS), "Connection: close"))
        await engine.until(lambda: engine.requests[-1].events > 10)
        sent = await stalled(engine)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert sent < BOUND
        assert grown * 1024 < BOUND + (32 << 20)
        # Another client is served as ever.
        assert (await served.post(CHAT, chat(max_tokens=3))).status == 200
        answer = Answer.read(await slow.rest())
        assert answer.whole
        assert answer.events[-1] == "[DONE]"
        assert len(said(answer)) > 29_000_000
        await settled(served, engine)
        assert served.metric("gateway_requests_total", outcome="ok") == 3


@pytest.mark.parametrize("stream", [True, False])
async def test_who_never_reads_is_cut_off(stream: bool, tmp_path: Path) -> None:
    """Both sides end `server.timeouts.write` after the last byte was taken."""
    engine_does = (
        {"endless": True, "say": "x" * 1000} if stream else {"reply": {"body": answer_of(12_000_000)}}
    )
    async with (
        FakeEngine(models=["up"], defaults=engine_does) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {write: 300ms}")) as served,
        client(served.port, SMALL) as slow,
    ):
        await slow.send(http(chat(stream=stream)))
        await engine.until(lambda: engine.requests[-1].bytes_sent > 0)
        if stream:
            await engine.closed()
        await until(lambda: not served.server.server_state.connections, "the connection is closed", 10)
        assert len(await slow.rest()) < 12_000_000
        assert served.metric("gateway_requests_total", outcome="client_slow") == 1
        assert served.metric("gateway_requests_total") == 1
        engine.set(models=["up"])
        await settled(served, engine)


KINDS = {"plain": (), "full": ("X-Twice: 1", "X-Twice: 2"), "closing": ("Connection: close",)}
"""Headers by which a request stays at the front door, goes to the full protocol, or ends its connection."""


@pytest.mark.parametrize("kind", KINDS)
async def test_who_reads_slowly_but_steadily_gets_it_all(kind: str, tmp_path: Path) -> None:
    """It takes several times `server.timeouts.write`, which only limits how long nothing is taken."""
    size = 12_000_000
    async with (
        FakeEngine(models=["up"], defaults={"reply": {"body": answer_of(size)}}) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {write: 400ms}")) as served,
        client(served.port, 1 << 17) as slow,
    ):
        await slow.send(http(chat(), *KINDS[kind]))
        while len(slow.received) < size:
            assert await slow.read(1 << 16), f"cut off after {len(slow.received)} bytes"
            await asyncio.sleep(0.008)
        assert len((await slow.answer()).body) > size
        await until(lambda: served.metric("gateway_requests_total", outcome="ok") == 1, "it is counted")
        assert served.metric("gateway_requests_total") == 1
        slow.leave()
        await settled(served, engine)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_within_its_answer_did_not_get_it(kind: str, tmp_path: Path) -> None:
    """A request is counted when its answer has left the gateway, or never will."""
    async with (
        FakeEngine(models=["up"], defaults={"reply": {"body": answer_of(12_000_000)}}) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port, SMALL) as slow,
    ):
        await slow.send(http(chat(), *KINDS[kind]))
        await until(lambda: served.metric("gateway_attempts_total", result="ok") == 1, "it is answered")
        assert served.metric("gateway_requests_total") == 0
        slow.leave("RST")
        await until(lambda: served.metric("gateway_requests_total") == 1, "it is counted")
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        await settled(served, engine)


@pytest.mark.parametrize("ending", ["Connection: close", "X-Nothing: x"])
async def test_what_little_is_left_is_not_kept_for_ever_either(ending: str, tmp_path: Path) -> None:
    """An answer must not wait for its client without end, on a connection that closes or idles.

    It fits into the buffers but for a rest below the high-water mark.
    """
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {write: 300ms, keep_alive: 300ms}")) as served,
        client(served.port, SMALL) as slow,
    ):
        size = await _just_too_much(served, engine)
        engine.set(models=["up"], defaults={"reply": {"body": answer_of(size)}})
        await slow.send(http(chat(), ending))
        await until(lambda: served.metric("gateway_attempts_total", result="ok") >= 2, "it is answered")
        await until(lambda: not served.server.server_state.connections, "the connection is closed", 10)
        engine.set(models=["up"])
        await settled(served, engine)


async def _just_too_much(served: Served, engine: FakeEngine) -> int:
    """How long an answer is of which the kernel takes all but a little: measured with one that is far too long."""
    size = 12_000_000
    engine.set(models=["up"], defaults={"reply": {"body": answer_of(size)}})
    async with client(served.port, SMALL) as probe:
        await probe.send(http(chat()))
        await until(lambda: served.metric("gateway_attempts_total", result="ok") >= 1, "it is answered")
        await asyncio.sleep(0.05)
        doors = [each for each in served.server.server_state.connections if isinstance(each, Door)]
        [door] = [each for each in doors if each.transport.get_write_buffer_size()]
        left = door.transport.get_write_buffer_size()
    assert 0 < left < size
    return size - left + 30_000


async def test_a_slow_reader_leaves_no_paused_connection_in_the_pool(tmp_path: Path) -> None:
    """The engine's connection must read again for the next request that uses it.

    It is paused for the client's sake when the last bytes come.
    """
    async with (
        FakeEngine(models=["up"], defaults={"reply": {"body": answer_of(12_000_000)}}) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port, SMALL) as slow,
    ):
        await slow.send(http(chat()))
        await until(lambda: served.metric("gateway_attempts_total", result="ok") == 1, "it is answered")
        engine.set(models=["up"])
        connections = engine.journal.totals.accepted
        async with asyncio.timeout(PATIENCE):
            assert (await served.post(CHAT, chat())).status == 200
        assert engine.journal.totals.accepted == connections, "the connection was not used again"
        assert len((await slow.answer()).body) > 12_000_000
        await settled(served, engine)


async def test_a_slow_reader_is_no_fault_of_the_engine(tmp_path: Path) -> None:
    """While the client's socket is full nothing comes from the engine, because nothing is read from it."""
    defaults = "timeouts: {idle: 300ms}, breaker: {failures: 1}"
    async with (
        FakeEngine(models=["up"], defaults={"endless": True, "say": "x" * 1000}) as engine,
        serving(tmp_path, config(engine.url, defaults=defaults, server="timeouts: {write: 1s}")) as served,
        client(served.port, SMALL) as slow,
    ):
        await slow.send(http(chat(stream=True)))
        await engine.closed()
        await rest(served)
        assert served.metric("gateway_requests_total", outcome="client_slow") == 1
        assert served.metric("gateway_attempts_total", result="timeout") == 0


async def test_a_request_that_drips_ends_at_its_deadline(tmp_path: Path) -> None:
    """However steadily its bytes come. No place and no engine waits for it meanwhile."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(
            tmp_path,
            config(engine.url, server="timeouts: {body: 500ms}", model="admission: {concurrency: 1}"),
        ) as served,
        client(served.port) as slow,
    ):
        asked = len(engine.requests)
        request = http(chat("x" * 100_000))
        head = request.index(b"\r\n\r\n") + 4
        await slow.send(request[:head])

        async def drip() -> None:
            for start in range(head, len(request)):
                await slow.send(request[start : start + 1])
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        await until(lambda: len(served.gateway.core.register.running) == 1, "the request is being read")
        assert (await served.post(CHAT, chat())).status == 200
        await slow.until(b"\r\n\r\n")
        dripping.cancel()
        await asyncio.wait([dripping])
        answer = Answer.read(await slow.rest())
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        await rest(served)
        assert len(engine.requests) == asked + 1
        assert served.metric("gateway_requests_total", outcome="client_error") == 1
        assert served.metric("gateway_requests_total", outcome="client_gone") == 0


async def test_stray_line_ends_do_not_keep_an_idle_connection(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {keep_alive: 300ms}")) as served,
        client(served.port) as idler,
    ):
        await idler.send(http(chat()))
        assert (await idler.answer()).status == 200
        await idler.send(b"\r\n")
        assert await idler.rest() == b""
        # Neither does a request that was answered before all of it was there.
        async with client(served.port) as other:
            request = http(b"x" * 5000)
            text = request.replace(b"application/json", b"text/plain")
            await other.send(text[:-100])
            assert (await other.answer()).status == 415
            await other.send(text[-100:])
            assert await other.rest() == b""
        await settled(served, engine)


async def test_idle_connections_cost_little_and_end(tmp_path: Path) -> None:
    """Hundreds of kept-alive connections that say nothing more: others are served, and all end in time."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server="timeouts: {keep_alive: 1s}")) as served,
        client(served.port) as first,
    ):
        del first
        idlers = []
        for _ in range(300):
            context = client(served.port)
            idler = await context.__aenter__()
            idlers.append(context)
            await idler.send(http(None, method="GET", path="/healthz"))
            assert (await idler.answer()).status == 200
        assert (await served.post(CHAT, chat())).status == 200
        await until(lambda: len(served.server.server_state.connections) <= 1, "idle connections end")
        for context in idlers:
            await context.__aexit__(None, None, None)
        assert at_rest(served)

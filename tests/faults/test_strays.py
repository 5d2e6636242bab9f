"""A connection to an engine is used again only when nothing more can come on it, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bench.strays import KINDS, Clients, Engine
from gateway.fake.engine import FakeEngine
from gateway.wire.connection import Connection
from gateway.wire.upstream import Upstream
from tests.faults.clients import CHAT, chat, config, settled, until
from tests.serving import serving

REQUESTS, CLIENTS = 4_000, 24


class Peer(asyncio.Protocol):
    """The engine's end of a connection."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass


@contextlib.asynccontextmanager
async def pooled(keep_alive: float = 30.0) -> AsyncIterator[tuple[Upstream, Connection, Peer]]:
    """Yield the connections to an engine, one that is connected, and the engine's end of it."""
    loop = asyncio.get_running_loop()
    peer = Peer()
    server = await loop.create_server(lambda: peer, "127.0.0.1", 0)
    upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", keep_alive=keep_alive)
    try:
        connection = await upstream.connect(5)
        await until(lambda: hasattr(peer, "transport"), "the engine has accepted")
        yield upstream, connection, peer
    finally:
        upstream.close()
        server.close()
        await until(lambda: not upstream.open, "the connection is closed")


async def rested() -> None:
    """Wait until what was given back may be used again."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_few_thousand_answers_reach_who_asked(tmp_path: Path) -> None:
    """Though after every tenth the engine sends its predecessor's answer once more, at once or a little later."""
    loop = asyncio.get_running_loop()
    engine = Engine(share=0.1)
    server = await loop.create_server(engine.connection, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with serving(tmp_path, config(url).replace("up", "m")) as served:
        upstream = served.gateway.pool.backends["engine-0"].upstream
        assert upstream is not None
        upstream.pool.distrust = 0.0
        asking = Clients(served.port, REQUESTS)
        await asking.run(CLIENTS)
        assert asking.results == {"right": REQUESTS}
        assert set(engine.strays) == set(KINDS)
        assert engine.requests == REQUESTS
        assert engine.connections < REQUESTS / 4, "connections were not used again"
        assert served.metric("gateway_attempts_total", result="ok") == REQUESTS
    server.close()


async def test_a_connection_rests_until_the_loop_has_polled_once() -> None:
    async with pooled() as (upstream, connection, _):
        loop = asyncio.get_running_loop()
        upstream.give_back(connection, loop.time())
        assert upstream.idle == 1
        assert upstream.take() is None
        before_the_poll = loop.create_future()
        loop.call_soon(lambda: before_the_poll.set_result(upstream.take()))
        assert await before_the_poll is None
        await rested()
        assert upstream.take() is connection
        assert upstream.idle == 0


async def test_what_the_loop_has_not_reported_yet_closes_a_connection() -> None:
    """Bytes are in the kernel, and the loop will only tell when it polls next."""
    async with pooled() as (upstream, connection, peer):
        upstream.give_back(connection, asyncio.get_running_loop().time())
        await rested()
        peer.transport.write(b"HTTP/1.1 200 OK\r\n")
        while not connection.has_input():
            select.select((), (), (), 0.001)
        assert upstream.take() is None
        assert upstream.idle == 0
        assert not connection.usable


async def test_no_connection_is_used_twice_to_an_engine_that_strayed() -> None:
    async with pooled() as (upstream, connection, peer):
        loop = asyncio.get_running_loop()
        other = await upstream.connect(5)
        for each in (connection, other):
            upstream.give_back(each, loop.time())
        await rested()
        peer.transport.write(b"HTTP/1.1 200 OK\r\n")
        await until(lambda: upstream.open == 0, "both are closed")
        third = await upstream.connect(5)
        upstream.give_back(third, loop.time())
        assert upstream.idle == 0
        upstream.give_back(await upstream.connect(5), loop.time() + upstream.pool.distrust + 1)
        assert upstream.idle == 1


async def test_an_idle_connection_is_closed_by_a_timer() -> None:
    async with pooled(keep_alive=0.05) as (upstream, connection, _):
        second = await upstream.connect(5)
        for each in (connection, second):
            upstream.give_back(each, asyncio.get_running_loop().time())
        assert upstream.idle == 2
        await until(lambda: upstream.open == upstream.idle == 0, "both are closed")


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let no file be opened, unless one is closed before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


async def test_idle_connections_make_room_where_no_descriptor_is_left(tmp_path: Path) -> None:
    """Those to one engine are idle, and a request for the other one needs a connection."""
    async with FakeEngine(models=["up"]) as busy, FakeEngine(models=["up"]) as fresh:
        models = "models: {m: {targets: {engine-0: up}}, n: {targets: {engine-1: up}}}\n"
        text = config(busy.url, fresh.url).split("models:\n")[0] + models
        async with serving(tmp_path, text) as served:
            upstream = served.gateway.pool.backends["engine-0"].upstream
            assert upstream is not None
            reader, writer = await served.connect()
            await asyncio.gather(*(served.post(CHAT, chat()) for _ in range(20)))
            assert upstream.idle > 4
            before = upstream.idle
            with no_descriptor_left():
                body = b'{"model":"n","messages":[{"role":"user","content":"hi"}]}'
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert upstream.idle < before
            writer.close()
            await settled(served, busy, fresh)


async def test_no_descriptor_left_at_all_is_no_fault_of_the_engine(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, defaults="breaker: {failures: 1}")) as served,
    ):
        backend = served.gateway.pool.backends["engine-0"]
        upstream = backend.upstream
        assert upstream is not None
        await until(lambda: not upstream.open, "no probe runs")
        reader, writer = await served.connect()
        body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
        with no_descriptor_left():
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert not backend.breaker.open
        writer.close()
        assert (await served.post(CHAT, chat())).status == 200
        await settled(served, engine)

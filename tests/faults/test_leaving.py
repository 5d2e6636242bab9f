"""The client leaves, in every phase and in both ways: its request ends at once, and everything it held is given back.

Rules:
- The fake engine sees its own connection end, or never saw a request at all.
- A client that leaves is counted as `client_gone`, once, and speaks against no backend.
- A half-closed connection counts as one that was left: nothing on the wire tells the two apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from gateway.wire import server
from gateway.wire.door import Door
from gateway.wire.limits import AHEAD
from tests.faults.clients import CHAT, Client, at_rest, chat, client, config, http, settled, until
from tests.serving import Served, serving

HOW = ("FIN", "RST")
ODD = ("X-Twice: 1", "X-Twice: 2")
"""Headers that are in order, and that the front door leaves to the full protocol."""
TIMES = 50
SILENT: dict[str, Any] = {"first_token": 60}
ENDLESS: dict[str, Any] = {"endless": True, "gap": 0.005}


@dataclass
class Scene:
    """What a phase is looked at from."""

    served: Served
    engine: FakeEngine
    caller: Client
    turn: int
    """How many clients came before."""


@dataclass
class Phase:
    """How a request is brought into a phase."""

    reached: Callable[[Scene], Awaitable[None]]
    """Wait until the client of the scene is in the phase."""
    engine: dict[str, Any]
    """The engine's defaults meanwhile."""
    request: bytes = http(chat(stream=True))
    asks: bool = True
    """The engine sees the request."""


async def arrived(scene: Scene) -> None:
    await scene.engine.arrived(scene.turn + 1)


async def headers_sent(scene: Scene) -> None:
    await scene.engine.arrived(scene.turn + 1)
    await scene.engine.until(lambda: scene.engine.requests[-1].phase == "headers")


async def first_token(scene: Scene) -> None:
    await scene.caller.until(b"data: ")


async def being_read(scene: Scene) -> None:
    await until(lambda: len(scene.served.gateway.core.register.running) == 1, "the request is being read")


PHASES = {
    "sending its body": Phase(being_read, {}, http(chat("x" * 1000))[:-500], asks=False),
    "sending a large body": Phase(being_read, {}, http(chat("x" * 300_000))[:-500], asks=False),
    "before the first byte": Phase(arrived, SILENT),
    "before the first byte, large body": Phase(arrived, SILENT, http(chat("x" * 300_000, stream=True))),
    "before the first token": Phase(headers_sent, {**SILENT, "http": {"early_headers": True}}),
    "streaming": Phase(first_token, ENDLESS),
    "not streaming": Phase(arrived, SILENT, http(chat())),
    "not streaming, large body": Phase(arrived, SILENT, http(chat("x" * 300_000))),
    "HTTP/1.0": Phase(first_token, ENDLESS, http(chat(stream=True), version="1.0")),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", PHASES)
async def test_leaving(name: str, how: str, tmp_path: Path) -> None:
    phase = PHASES[name]
    async with FakeEngine(defaults=phase.engine) as engine, serving(tmp_path, config(engine.url)) as served:
        engine.journal.clear()
        engine.set(defaults=phase.engine, models=["up"])
        for turn in range(TIMES):
            caller = await Client.connect(served.port)
            await caller.send(phase.request)
            await phase.reached(Scene(served, engine, caller, turn))
            caller.leave(how)
            if phase.asks:
                await engine.closed(turn + 1)
            await until(lambda: at_rest(served), "everything is given back")
        assert len(engine.requests) == (TIMES if phase.asks else 0)
        assert served.metric("gateway_requests_total", outcome="client_gone") == TIMES
        assert served.metric("gateway_attempts_total", result="cancelled") == (TIMES if phase.asks else 0)
        engine.set(models=["up"])
        await settled(served, engine)


@pytest.mark.parametrize("how", HOW)
async def test_leaving_the_queue(how: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        serving(tmp_path, config(engine.url, model="admission: {concurrency: 1}")) as served,
        client(served.port) as holder,
    ):
        await holder.send(http(chat(stream=True)))
        await holder.until(b"data: ")
        asked = len(engine.requests)
        queued = served.gateway.metrics.queues.waiting.cell("m", "normal")
        for _ in range(TIMES):
            callers = [await Client.connect(served.port) for _ in range(3)]
            for caller in callers:
                await caller.send(http(chat(stream=True)))
            await until(lambda: queued.value == 3, "all are queued")
            for caller in callers:
                caller.leave(how)
            await until(lambda: queued.value == 0, "nobody is queued")
        assert len(engine.requests) == asked
        assert served.metric("gateway_requests_total", outcome="client_gone") == TIMES * 3
        engine.set(models=["up"])
        waiting = asyncio.create_task(served.post(CHAT, chat()))
        await until(lambda: queued.value == 1, "one waits for the place")
        holder.leave(how)
        assert (await waiting).status == 200
        await settled(served, engine)


@pytest.mark.parametrize("how", HOW)
async def test_leaving_while_the_model_loads(how: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, kind="llamacpp")) as served,
    ):
        backend = served.gateway.pool.backends["engine-0"]
        budget = served.gateway.core.dispatcher.budget
        engine.set(models=["up"], loading=60)
        for _ in range(TIMES):
            caller = await Client.connect(served.port)
            await caller.send(http(chat(stream=True)))
            await until(
                lambda: budget.active == 1 and backend.health is Health.LOADING and not backend.in_flight,
                "the request waits for the model",
            )
            caller.leave(how)
            await until(lambda: at_rest(served), "everything is given back")
        assert served.metric("gateway_requests_total", outcome="client_gone") == TIMES
        engine.set(models=["up"])
        backend.note(Health.READY)
        await settled(served, engine)


@contextlib.asynccontextmanager
async def deaf_engine(backlog: int = 100) -> AsyncIterator[tuple[socket.socket, str]]:
    """Yield a port that takes connections, up to `backlog`, and reads nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        listener.setblocking(False)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


async def taken_to_the_end(listener: socket.socket) -> int:
    """Accept one connection of a deaf engine after all, and read until its end: how many bytes there were."""
    loop = asyncio.get_running_loop()
    size = 0
    async with asyncio.timeout(5):
        accepted, _ = await loop.sock_accept(listener)
        with accepted, contextlib.suppress(ConnectionResetError):
            while part := await loop.sock_recv(accepted, 1 << 16):
                size += len(part)
    return size


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.usefixtures("short_probes")
async def test_leaving_while_the_engine_does_not_read(how: str, tmp_path: Path) -> None:
    large = http(chat("x" * 6_000_000, stream=True))
    async with deaf_engine() as (listener, url), serving(tmp_path, config(url)) as served:
        backend = served.gateway.pool.backends["engine-0"]
        assert backend.upstream is not None
        # The gateway's own probe, which it gave up.
        await taken_to_the_end(listener)
        for turn in range(10):
            caller = await Client.connect(served.port)
            await caller.send(large)
            await until(
                lambda: served.gateway.pool.backends["engine-0"].in_flight == 1, "the request is sent"
            )
            await until(lambda: backend.upstream.open == 1, "there is a connection")  # type: ignore[union-attr]
            caller.leave(how)
            await until(lambda: at_rest(served), "everything is given back")
            assert await taken_to_the_end(listener) < len(large), "it was sent to the end"
            assert served.metric("gateway_requests_total", outcome="client_gone") == turn + 1
        await settled(served)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.usefixtures("short_probes")
async def test_leaving_while_connecting(how: str, tmp_path: Path) -> None:
    async with deaf_engine(backlog=0) as (listener, url):
        port = listener.getsockname()[1]
        # Two connections fill the backlog; the kernel answers no further one.
        fillers = [socket.create_connection(("127.0.0.1", port)), socket.socket()]
        fillers[1].setblocking(False)
        fillers[1].connect_ex(("127.0.0.1", port))
        defaults = "timeouts: {connect: 60s}"
        async with serving(tmp_path, config(url, defaults=defaults)) as served:
            backend = served.gateway.pool.backends["engine-0"]
            assert backend.upstream is not None
            for _ in range(TIMES):
                caller = await Client.connect(served.port)
                await caller.send(http(chat(stream=True)))
                await until(lambda: backend.in_flight == 1, "the request has a backend")
                assert backend.upstream.open == 0
                caller.leave(how)
                await until(lambda: at_rest(served), "everything is given back")
            assert served.metric("gateway_requests_total", outcome="client_gone") == TIMES
            assert served.metric("gateway_attempts_total", result="cancelled") == TIMES
            await settled(served)
        for filler in fillers:
            filler.close()


async def test_leaving_at_any_moment(tmp_path: Path) -> None:
    """500 clients, 20 at a time, leave wherever chance has brought them: within their request, too."""
    random = Random(7)
    requests = [http(chat("x" * size, stream=stream)) for size in (1, 100_000) for stream in (True, False)]
    async with (
        FakeEngine(models=["up"], defaults={"tokens": 20, "gap": 0.001}) as engine,
        serving(tmp_path, config(engine.url, model="admission: {concurrency: 10, queue: 1000}")) as served,
    ):
        engine.journal.clear()

        async def one() -> None:
            request, whole = random.choice(requests), random.random() < 0.9
            caller = await Client.connect(served.port)
            await caller.send(request if whole else request[: random.randrange(len(request))])
            await asyncio.sleep(random.random() * 0.03)
            caller.leave(random.choice(HOW))

        async def many() -> None:
            for _ in range(25):
                await one()

        await asyncio.gather(*(many() for _ in range(20)))
        await until(lambda: at_rest(served), "everything is given back")
        await engine.until(lambda: all(exchange.outcome != "running" for exchange in engine.requests))
        outcomes = {
            word: served.metric("gateway_requests_total", outcome=word) for word in ("ok", "client_gone")
        }
        # Who left within the head of a request never became one.
        assert outcomes["client_gone"] > 100
        assert sum(outcomes.values()) == served.metric("gateway_requests_total") <= 500
        assert served.metric("gateway_backend_up") == 1
        engine.set(models=["up"])
        await settled(served, engine)


async def test_a_half_closed_connection_counts_as_left(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=SILENT) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=True)))
        await engine.until(lambda: engine.requests[-1].path == CHAT)
        caller.half_close()
        await engine.closed()
        assert await caller.rest() == b""
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        engine.set(models=["up"])
        await settled(served, engine)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("more", [1, 20, 100])
@pytest.mark.parametrize("headers", [(), ODD], ids=["plain", "odd"])
async def test_leaving_with_further_requests_sent(
    headers: tuple[str, ...], more: int, how: str, tmp_path: Path
) -> None:
    """The end of the connection is seen although not everything is read, while one request is answered.

    The next ones, which wait, are never begun.
    """
    async with (
        FakeEngine(models=["up"], defaults=SILENT) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=True), *headers))
        await engine.until(lambda: engine.requests[-1].path == CHAT)
        asked = len(engine.requests)
        [connection] = served.server.server_state.connections
        await caller.send(http(chat("x" * 1000, stream=True), *headers) * more)
        await until(lambda: waiting(connection, more), "the further requests have been noticed")
        caller.leave(how)
        await engine.closed()
        await until(lambda: at_rest(served), "everything is given back")
        assert len(engine.requests) == asked
        assert served.metric("gateway_requests_total") == 1
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        engine.set(models=["up"])
        await settled(served, engine)


def waiting(connection: object, more: int) -> bool:
    """So many further requests wait on a connection, read or not."""
    if isinstance(connection, Door):
        return connection.ahead > min(more * 1000, AHEAD)
    assert isinstance(connection, server.GatewayProtocol)
    return connection.flow.read_paused


async def test_nobody_tries_again_for_a_client_that_left(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=SILENT) as first,
        FakeEngine(models=["up"], defaults=SILENT) as second,
        serving(tmp_path, config(first.url, second.url, defaults="retry: {attempts: 5}")) as served,
    ):
        asked = len(first.requests) + len(second.requests)
        for _ in range(10):
            caller = await Client.connect(served.port)
            await caller.send(http(chat(stream=True)))
            await until(
                lambda: any(
                    r.path == CHAT and r.outcome == "running" for r in first.requests + second.requests
                ),
                "an engine is at work",
            )
            caller.leave("RST")
            await until(lambda: at_rest(served), "everything is given back")
        assert len(first.requests) + len(second.requests) == asked + 10
        for engine in (first, second):
            engine.set(models=["up"])
        await settled(served, first, second)


async def test_a_storm_of_resets_leaves_nothing(tmp_path: Path) -> None:
    """Connections that are reset at once, and connections that send a request and are reset in the same breath."""
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        for sent in (b"", b"POST", http(chat(stream=True))):
            for _ in range(300):
                caller = await Client.connect(served.port)
                await caller.send(sent)
                caller.leave("RST")
        await until(lambda: not served.server.server_state.connections, "every connection is gone")
        await settled(served, engine)


async def test_the_engine_hears_of_it_soon(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The time from the client's close to the end of the engine's connection, as a number in the report."""
    taken = []
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        for turn in range(20):
            caller = await Client.connect(served.port)
            await caller.send(http(chat(stream=True)))
            await caller.until(b"data: ")
            left = time.monotonic()
            caller.leave()
            closed = (await engine.closed(turn + 1))[turn].closed
            assert closed is not None
            taken.append(closed - left)
        await until(lambda: at_rest(served), "everything is given back")
    record_property("seconds until the engine heard", max(taken))
    assert max(taken) < 5


async def test_leaving_before_the_task_that_waits_has_begun(tmp_path: Path) -> None:
    """The request needs a connection, and its client is gone in the same turn of the loop."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port),
    ):
        connections: set[Any] = served.server.server_state.connections
        await until(lambda: bool(connections), "it is connected")
        [door] = connections
        door.data_received(http(chat()))
        door.lost()
        await until(lambda: at_rest(served), "everything is given back", 5)
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        await settled(served, engine)

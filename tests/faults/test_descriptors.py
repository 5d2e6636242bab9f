"""The gateway in a process whose descriptors run out: idle clients make room, and it lives on whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from tests.faults.clients import Client, chat, client, config, http, until

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="limits of other processes are Linux'"
)

ODD = ("X-Odd: 1", "X-Odd: 2")
"""Header lines that make a request none for the front door."""


class Process:
    """A gateway in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def descriptors(self) -> set[int]:
        """Return the numbers of its open descriptors."""
        return {int(name) for name in os.listdir(f"/proc/{self.process.pid}/fd")}

    def leave(self, free: int) -> None:
        """Let it open only so many descriptors more than it has. It wants to keep more than that free."""
        limit = len(self.descriptors()) + free
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (limit, limit))


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(models=["up"], defaults={"say": "hello there"}) as made:
        yield made


@pytest_asyncio.fixture
async def gateway(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path / "gateway.yaml"
    file.write_text(config(engine.url).replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", str(file), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"listens on" in await process.stdout.readline()
    try:
        async with asyncio.timeout(20):
            while b"curl" not in await process.stdout.readline():
                pass
        yield Process(process, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def served(caller: Client, *headers: str) -> bool:
    """Ask on a connection, and tell whether there was an answer: false if the connection was closed before."""
    try:
        await caller.send(http(chat(), *headers))
        await caller.until(b"hello there")
    except (AssertionError, OSError):
        return False
    caller.received = b""
    return True


async def is_closed(caller: Client) -> bool:
    try:
        async with asyncio.timeout(0.05):
            return not await caller.read()
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("odd", [(), ODD], ids=["front door", "full protocol"])
async def test_the_longest_idle_clients_make_room_for_new_ones(
    odd: tuple[str, ...], gateway: Process, engine: FakeEngine
) -> None:
    engine.set(models=["up"], defaults={"say": "hello there"}, rules=[
        {"match": {"contains": "long"}, "say": "hello there", "endless": True, "gap": 0.01}
    ])  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        streaming = await stack.enter_async_context(client(gateway.port))
        await streaming.send(http(chat("long", stream=True), *odd))
        await streaming.until(b"hello")
        first = [await stack.enter_async_context(client(gateway.port)) for _ in range(30)]
        for caller in first:
            assert await served(caller, *odd)
        gateway.leave(5)
        for _ in range(20):
            caller = await stack.enter_async_context(client(gateway.port))
            assert await served(caller, *odd), "every new client is served"
        gone = [await is_closed(caller) for caller in first]
        assert any(gone)
        assert gone == sorted(gone, reverse=True), "those go first that have been idle for longest"
        assert await streaming.read(), "who is being served is left alone"


async def test_without_a_free_descriptor_the_gateway_lives_on(gateway: Process, engine: FakeEngine) -> None:
    """Nobody is idle, so new clients are turned away; when the others have gone, there is room again."""
    engine.set(models=["up"], defaults={"say": "hello there", "endless": True, "gap": 0.05})
    async with contextlib.AsyncExitStack() as stack:
        gateway.leave(8)
        busy = 0
        for _ in range(30):
            caller = await stack.enter_async_context(client(gateway.port))
            await caller.send(http(chat(stream=True)))
            with contextlib.suppress(ConnectionResetError):
                busy += b"200 OK" in await caller.read()
        assert 0 < busy < 30
        assert gateway.process.returncode is None
    engine.set(models=["up"], defaults={"say": "hello there"})
    await until(lambda: engine.journal.totals.running == 0, "the engine rests")
    for _ in range(3):
        async with client(gateway.port) as caller:
            assert await served(caller)

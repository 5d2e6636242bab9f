"""Run the gateway in one process or several: listening sockets, uvicorn with our protocol, signals.

Rules:
- The first SIGINT or SIGTERM drains: no new connections are accepted, `/readyz` reports it, running requests may
  finish. The second one ends all requests at once.
- Stopping never polls. A signal, the end of the last request and of the last connection are events, so an idle
  gateway stops at once.
- A clean stop exits with status 0. A port in use gives one clear line on stderr and status 1. SIGHUP is only logged.
- One process is the normal case. Several workers are for machines with more cores than one event loop can use.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState as UvicornState

from gateway.app import VERSION, Gateway
from gateway.config.address import Listen
from gateway.config.schema import Config
from gateway.errors import GatewayError, Own
from gateway.fleet.peers import Peers
from gateway.greeting import address, greeting
from gateway.link import Link
from gateway.outlet import Outlet
from gateway.wire.context import ServerContext, ServerState
from gateway.wire.door import Door
from gateway.wire.limits import Limits
from gateway.wire.room import watch
from gateway.wire.server import protocol_with
from gateway.workers import Master, Worker

log = logging.getLogger("gateway.serve")

GC_THRESHOLD = (50_000, 20, 50)
"""Garbage collector thresholds. Requests create few reference cycles; with Python's default of 700 the collector would
run several times per hundred requests for nothing."""

TELL = 1.0
"""Seconds between two lines on how many requests a stop waits for."""

BACKLOG = 4096
"""Connections that may wait in the kernel's queue to be accepted."""

PARTING = 1.0
"""Seconds that clients have, after the drain, to take the last bytes that were written to them."""


class Connections(set[Any]):
    """The set of open client connections, which uvicorn's protocols add and remove themselves from."""

    def __init__(self) -> None:
        super().__init__()
        self._left = asyncio.Event()
        watch(self)

    def discard(self, connection: object) -> None:
        super().discard(connection)
        self._left.set()

    async def gone(self) -> None:
        """Wait until no connection is open."""
        while self:
            self._left.clear()
            await self._left.wait()


class Server(uvicorn.Server):
    """uvicorn's server with the gateway's own main loop and graceful shutdown."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._connections = self.server_state.connections = Connections()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    def on_signal(self) -> None:
        """Begin to drain on the first signal, and stop waiting for requests on the next one."""
        if self.should_exit:
            self._hurry.set()
        self.stop()

    def stop(self) -> None:
        """Begin to drain; the server ends when that is done."""
        self._gateway.drain()
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Every answer needs the date header; uvicorn would create it only after the first connections are accepted.
        await self.on_tick(0)
        await super().startup(sockets)

    async def main_loop(self) -> None:
        while not self.should_exit:
            await self.on_tick(0)  # updates the date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        # Connections that were accepted in this turn of the loop still have to register themselves.
        await asyncio.sleep(0)
        for connection in tuple(self._connections):
            connection.shutdown()
        patience = self.config.timeout_graceful_shutdown or 0
        waits = [asyncio.create_task(self._drained()), asyncio.create_task(self._hurry.wait())]
        telling = asyncio.create_task(self._tell(patience))
        await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        waits.append(telling)
        requests, late = list(self._gateway.core.register.running), list(self.server_state.tasks)
        count = self._running()
        if count and not self._hurry.is_set():
            log.warning("requests that still run after %g s get an error now: %d", patience, count)
        for request in requests:
            request.interrupt(GatewayError(Own.DRAINING, "the gateway is shutting down"))
        for task in (*late, *waits):
            task.cancel()
        await asyncio.gather(*late, *waits, return_exceptions=True)
        await self._gateway.core.register.empty()
        await self._part()
        await self.lifespan.shutdown()

    def _running(self) -> int:
        """Return how many requests have not ended."""
        # A request that came through ASGI is in both, so their sum would count it twice.
        return max(len(self._gateway.core.register.running), len(self.server_state.tasks))

    async def _tell(self, patience: float) -> None:
        """Log how many requests are waited for, now and, at most every `TELL` seconds, whenever there are fewer."""
        told = 0
        while count := self._running():
            if count != told:
                log.warning(
                    "stopping: requests that still run: %d (until %g s after the signal; another signal ends them now)",
                    count,
                    patience,
                )
            told = count
            await asyncio.sleep(TELL)

    async def _drained(self) -> None:
        """Wait until every request has ended and every client has received its answer."""
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)
        await self._gateway.core.register.empty()
        await self._connections.gone()

    async def _part(self) -> None:
        """Close what clients do not close themselves: one that does not read would keep the event loop open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING):
                await self._connections.gone()
        for connection in tuple(self._connections):
            connection.transport.abort()

    async def run_on(self, listener: socket.socket) -> None:
        """Serve on a listening socket until `stop` is called, without installing signal handlers."""
        await self._serve([listener])

    async def run_until_signal(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.on_signal)
        await self._serve([listener])


def build(config: Config, peers: Peers | None = None) -> tuple[Server, Gateway]:
    """Return the gateway for a config and the server that runs it; start neither.

    `peers` are the processes of this gateway; None if this is the only one.
    """
    gateway = Gateway(config, peers=peers)
    settings = uvicorn.Config(
        gateway,
        http=_front_door(config, gateway),  # type: ignore[arg-type]  # uvicorn only calls it
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=config.server.timeouts.keep_alive,  # type: ignore[arg-type]
        timeout_graceful_shutdown=config.server.drain,  # type: ignore[arg-type]
        backlog=BACKLOG,
    )
    return Server(settings, gateway), gateway


def _front_door(config: Config, gateway: Gateway) -> Callable[..., Door]:
    """Return the factory with which uvicorn creates the protocol of each client connection."""
    limits = _limits(config)

    def refused(reason: str) -> None:
        gateway.metrics.refused.cell(reason).value += 1

    full = protocol_with(limits, cors=gateway.core.cors, refused=refused)
    hot = {path.encode(): endpoint for path, endpoint in gateway.hot.items()}
    contexts: list[ServerContext] = []

    def door(
        config: uvicorn.Config,
        server_state: UvicornState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Door:
        loop = _loop or asyncio.get_running_loop()
        if not contexts:
            made = functools.partial(full, config, server_state, app_state, loop)
            shared = cast(ServerState, server_state)  # its set may hold anything that has a `shutdown` method
            contexts.append(ServerContext(made, hot, limits, shared, config.timeout_keep_alive))
        return Door(contexts[0], loop)

    return door


def serve(config: Config, file: Path, workers: int = 1) -> int:
    """Serve until a signal ends it, and return the exit status. `file` is the path the config was read from."""
    listener = listen(config.server.listen)
    if listener is None:
        return 1
    host, port = listener.getsockname()[:2]
    url = address(host, port)
    where = str(Listen(host, port))
    terminal = Outlet(sys.stdout)
    shown = url if url.endswith(where) else f"http://{where}, here {url}"
    if workers == 1:
        _run(_serve(config, listener, url, shown, terminal))
        terminal.flush()
        return 0
    listener.close()
    is_open = config.server.auth == "none" or not config.keys
    master = Master(
        config,
        file,
        workers,
        on_listening=lambda: terminal.put(f"gateway {VERSION} listens on {shown} with {workers} workers"),
        on_ready=lambda models: terminal.put(greeting(url, models, is_open)),
    )
    _run(master.run(port))
    terminal.flush()
    return 0


def work(config: Config, port: int, link: int, workers: int) -> int:
    """Run one worker of several, of which there are `workers`, and return the exit status.

    `link` is the file descriptor of the socket that connects the worker to the master.
    """
    listener = listen(Listen(config.server.listen.host, port), shared=True)
    if listener is None:
        return 1
    _run(_work(config, listener, socket.socket(fileno=link), workers))
    return 0


def listen(where: Listen, shared: bool = False) -> socket.socket | None:
    """Return a listening socket, or None after printing the reason on stderr.

    Several processes can listen on one port if each passes `shared`.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((where.host, where.port))
        # From here on the kernel accepts connections, so "listens on" can be printed before the server runs.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = error.strerror or error
        for handler in logging.getLogger().handlers:
            handler.flush()  # the log has a writer of its own, whose lines would begin or end within this one
        print(
            f"gateway: cannot listen on {where}: {why}; `server.listen` in the config says where",
            file=sys.stderr,
        )
        return None
    return listener


def _run(main: Coroutine[Any, Any, None]) -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    loop_factory = uvicorn.Config("", loop="uvloop", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_survive(main))


async def _survive(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` with a SIGHUP handler that only logs, unless the process ignores SIGHUP already (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP,
            log.warning,
            "SIGHUP: reading the config anew is not supported; restart to apply changes",
        )
    await main


async def _serve(config: Config, listener: socket.socket, url: str, shown: str, terminal: Outlet) -> None:
    server, gateway = build(config)

    async def greet() -> None:
        # Not earlier: who reads this line may send a signal, and only now does one stop the gateway cleanly.
        terminal.put(f"gateway {VERSION} listens on {shown}")
        terminal.put(greeting(url, await gateway.ready(), gateway.core.snapshot.keys.open))

    async with _beside(greet()):
        await server.run_until_signal(listener)


async def _work(config: Config, listener: socket.socket, end: socket.socket, workers: int) -> None:
    worker = Worker(await Link.on(end), workers)
    server, gateway = build(config, worker)

    async def tell() -> None:
        worker.tell_listening()
        worker.tell_ready(await gateway.ready())

    async with (
        _beside(worker.run(gateway.fleet, gateway.metrics, server.stop, gateway.overview.own)),
        _beside(tell()),
    ):
        await server.run_until_signal(listener)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` in a task for as long as the context is open."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _descriptors() -> int:
    """Raise the limit of open files to the most that the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def _limits(config: Config) -> Limits:
    limits, timeouts = config.server.limits, config.server.timeouts
    return Limits(
        body=limits.body,
        headers=limits.headers,
        header_count=limits.header_count,
        # Each client may need a connection to an engine too. Without descriptors for these, engines would look dead.
        connections=max(1, min(limits.connections, _descriptors() // 2 - 16)),
        header_seconds=timeouts.headers,
        body_seconds=timeouts.body,
        write_seconds=timeouts.write,
    )

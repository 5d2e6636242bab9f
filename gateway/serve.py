"""Run the gateway in one process or several: listening sockets, uvicorn with our protocol, signals.

Rules:
- The first SIGINT or SIGTERM drains: no new connections are accepted, `/readyz` reports it, running requests may
  finish. The second one ends all requests at once.
- Stopping never polls. A signal, the end of the last request and of the last connection are events, so an idle
  gateway stops at once.
- A clean stop exits with status 0. A port in use gives one clear line on stderr and status 1. SIGHUP reloads the
  config, unless the process ignores it (nohup).
- One process is the normal case. Several workers are for machines with more cores than one event loop can use.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway.adopt import Process
from gateway.app import VERSION, Gateway
from gateway.aside import Aside
from gateway.config.address import Listen
from gateway.config.disk import Disk
from gateway.config.file import Loaded
from gateway.config.schema import Config
from gateway.connections import Connections
from gateway.errors import GatewayError, Own
from gateway.fleet.peers import Alone, Peers
from gateway.front import Front
from gateway.greeting import address, greeting
from gateway.link import Link
from gateway.listening import BACKLOG, opened, why_not
from gateway.outlet import Outlet
from gateway.reload import Reloader
from gateway.store import opening
from gateway.worker import Worker
from gateway.workers import Master

if TYPE_CHECKING:
    from gateway.store.store import Store

log = logging.getLogger("gateway.serve")

GC_THRESHOLD = (50_000, 20, 50)
"""Garbage collector thresholds. Requests create few reference cycles; with Python's default of 700 the collector would
run several times per hundred requests for nothing."""

TELL = 1.0
"""Seconds between two lines on how many requests a stop waits for."""

PARTING = 1.0
"""Seconds that clients have, after the drain, to take the last bytes that were written to them."""


class Server(uvicorn.Server):
    """uvicorn's server with the gateway's own main loop and graceful shutdown."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, front: Front, aside: Aside) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._aside = aside
        self._front = front
        self._sockets: list[socket.socket] = []
        self._connections = self.server_state.connections = Connections()
        self._began = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        running = gateway.core.register.running
        gateway.metrics.before_scrape(lambda: self._connections.tell(gateway.metrics, len(running)))

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

    @property
    def listener(self) -> socket.socket:
        """The socket that clients connect to now."""
        return self._sockets[-1]

    def limit(self, config: Config) -> None:
        """Hold clients to the limits and deadlines of a config from now on."""
        self._front.limit(config)
        self._aside.limit(config)
        self.config.timeout_keep_alive = config.server.timeouts.keep_alive  # type: ignore[assignment]
        self.config.timeout_graceful_shutdown = config.server.drain  # type: ignore[assignment]

    async def move(self, listener: socket.socket) -> None:
        """Accept clients on this socket and no longer on the one before. Connections that are open stay."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._protocol, sock=listener, backlog=BACKLOG)
        before: tuple[Any, ...] = (*self.servers, *self._sockets)
        self.servers, self._sockets = [server], [listener]
        for each in before:
            each.close()

    def part(self) -> None:
        """Close each client's connection as soon as it is idle."""
        for connection in tuple(self._connections):
            connection.shutdown()

    def _protocol(self) -> asyncio.Protocol:
        return self._front.door(self.config, self.server_state, self.lifespan.state)  # type: ignore[return-value]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._sockets = list(sockets or ())
        # Every answer needs the date header; uvicorn would create it only after the first connections are accepted.
        await self.on_tick(0)
        await super().startup(sockets)
        await self._aside.begin(self.server_state, self.lifespan.state)
        self._began.set()

    async def serving(self) -> None:
        """Wait until connections are accepted. Before that nothing of it can be changed."""
        await self._began.wait()

    async def main_loop(self) -> None:
        while not self.should_exit:
            await self.on_tick(0)  # updates the date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        listeners: tuple[Any, ...] = (*self.servers, *self._sockets)
        for listener in listeners:
            listener.close()
        # Connections that were accepted in this turn of the loop still have to register themselves.
        await asyncio.sleep(0)
        self.part()
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
        await self._aside.close()
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


def build(
    config: Config, peers: Peers | None = None, shared: bool = False, store: Store | None = None
) -> tuple[Server, Gateway]:
    """Return the gateway for a config and the server that runs it; start neither.

    `peers` are the processes of this gateway; None if this is the only one. `shared`: others listen on the same ports.
    `store` is the one that the config names.
    """
    gateway = Gateway(config, peers=peers, store=store)
    front = Front(config, gateway)
    settings = uvicorn.Config(
        gateway,
        http=front.door,  # type: ignore[arg-type]  # uvicorn only calls it
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
    return Server(settings, gateway, front, Aside(config, gateway, shared)), gateway


def serve(loaded: Loaded, disk: Disk, file: Path, workers: int = 1) -> int:
    """Serve until a signal ends it, and return the exit status. Raises StoreError where the store cannot be used.

    `loaded` was read from `disk` by the path `file`, which is read again at each reload.
    """
    config = loaded.config
    store = opening.opened(config)
    listener = listen(config.server.listen)
    aside = config.server.metrics.listen
    if listener is None:
        return 1
    if aside is not None and not _free(aside):
        listener.close()
        return 1
    opening.tell(store)
    metrics = "" if aside is None else address(aside.host, aside.port)
    host, port = listener.getsockname()[:2]
    scheme = "http" if config.server.tls is None else "https"
    url = address(host, port, scheme)
    where = str(Listen(host, port))
    terminal = Outlet(sys.stdout)
    shown = url if url.endswith(where) else f"{scheme}://{where}, here {url}"
    if workers == 1:
        _run(_serve(loaded, disk, file, listener, store, partial(_greeted, terminal, shown, url, metrics)))
        terminal.flush()
        return 0
    listener.close()
    is_open = config.server.auth == "none" or not config.keys
    master = Master(
        (file, loaded, disk),
        port,
        workers,
        on_listening=lambda: terminal.put(f"gateway {VERSION} listens on {shown} with {workers} workers"),
        on_ready=lambda models: terminal.put(greeting(url, models, is_open, metrics)),
        store=store,  # for itself; each worker opens its own
    )
    _run(_survive(master.run(), master.hup))
    terminal.flush()
    return 0


def work(loaded: Loaded, where: Listen, link: int, workers: int, profile: str | None) -> int:
    """Run one worker of several, of which there are `workers`, by a config that the master has read.

    Return the exit status. Raises StoreError where the store cannot be used.

    `where` is where it listens, `profile` the active one; `link` is the file descriptor of the socket that connects it
    to the master.
    """
    listener = listen(where, shared=True)
    if listener is None:
        return 1
    store = opening.opened(loaded.config)
    _run(_work(loaded, listener, (socket.socket(fileno=link), workers), profile, store))
    return 0


def _free(aside: Listen) -> bool:
    """Tell whether the port of metrics can be had, after printing the reason on stderr where it cannot."""
    found = listen(aside, setting="server.metrics.listen")
    if found is not None:
        found.close()
    return found is not None


def listen(where: Listen, shared: bool = False, setting: str = "server.listen") -> socket.socket | None:
    """Return a listening socket, or None after printing the reason on stderr.

    Several processes can listen on one port if each passes `shared`. `setting` is where the config says it.
    """
    try:
        return opened(where, shared)
    except OSError as error:
        for handler in logging.getLogger().handlers:
            handler.flush()  # the log has a writer of its own, whose lines would begin or end within this one
        print(f"gateway: {why_not(where, error)}; `{setting}` in the config says where", file=sys.stderr)
        return None


def _run(main: Coroutine[Any, Any, None]) -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    loop_factory = uvicorn.Config("", loop="uvloop", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


async def _survive(main: Coroutine[Any, Any, None], hup: Callable[[], None]) -> None:
    """Run `main`, and `hup` at each SIGHUP, unless the process ignores SIGHUP already (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hup)
    await main


Greet = Callable[[], Callable[[list[str], bool], None]]


def _greeted(terminal: Outlet, shown: str, url: str, metrics: str) -> Callable[[list[str], bool], None]:
    """Print where the gateway listens. Return what prints how to use it, once its models are known."""
    terminal.put(f"gateway {VERSION} listens on {shown}")
    return lambda models, is_open: terminal.put(greeting(url, models, is_open, metrics))


async def _serve(
    loaded: Loaded, disk: Disk, file: Path, listener: socket.socket, store: Store | None, greet: Greet
) -> None:
    peers = Alone()
    server, gateway = build(loaded.config, peers, store=store)
    process = Process(gateway, server)
    process.begin(loaded)
    reloader = Reloader(file, loaded, disk, process, gateway.metrics)
    peers.on_reload = reloader.ask

    async def run() -> None:
        # Not earlier: who reads the first line may send a signal, and only now does one stop the gateway cleanly.
        ready = greet()
        await server.serving()
        async with _beside(reloader.run()):
            ready(await gateway.ready(), gateway.core.snapshot.keys.open)
            await asyncio.get_running_loop().create_future()

    async with _beside(run()):
        await _survive(server.run_until_signal(listener), lambda: reloader.wake("SIGHUP"))


async def _work(
    loaded: Loaded,
    listener: socket.socket,
    link: tuple[socket.socket, int],
    profile: str | None,
    store: Store | None,
) -> None:
    worker = Worker(await Link.on(link[0]), link[1])
    server, gateway = build(loaded.config, worker, shared=True, store=store)
    process = Process(gateway, server, shared=True)
    process.begin(loaded)
    process.use_profile(profile)

    async def tell() -> None:
        worker.tell_listening()
        worker.tell_ready(await gateway.ready())

    async def follow() -> None:
        await server.serving()
        await worker.follower(process).run()

    running = worker.run(gateway.fleet, gateway.metrics, server.stop, gateway.overview.own)
    async with _beside(follow()), _beside(running), _beside(tell()):
        await _survive(server.run_until_signal(listener), worker.hup)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` in a task for as long as the context is open."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])

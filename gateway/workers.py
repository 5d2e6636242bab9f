"""Several gateway processes behind one port: the master that starts and watches the others (`gateway.worker`).

Rules:
- Each worker has a listening socket of its own on the same port (SO_REUSEPORT), so the kernel spreads connections.
- The master serves no requests. It owns what there must be only one of: the launched engines, the polls for their
  signals, the look at the machine, the handling of SIGINT and SIGTERM, the metrics of workers that died.
- An operator's orders for backends go to the master, which has all workers obey and tells them to workers that come.
- The master reads the config, at the start and at each reload, and hands the workers what it has read: all of them
  have the same, also one that starts while the files are wrong. A change is first tried by all, then made by all; a
  worker that cannot make it after all is replaced.
- `/metrics` and `/gateway/backends` on any worker show the sum over all, fetched when asked for; counts never go down
  when a worker dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from gateway.api.overview import merged as merged_answers
from gateway.config.disk import Disk
from gateway.config.file import Loaded
from gateway.fleet.backend import Backend, BusyPeriods
from gateway.fleet.fleet import Fleet
from gateway.fleet.keeper import Keeper, Use, Uses
from gateway.fleet.location import Location
from gateway.fleet.orders import Order
from gateway.fleet.remembering import Remembering
from gateway.fleet.ring import Position
from gateway.fleet.signals import Report
from gateway.fleet.view import merged
from gateway.link import Link, Message
from gateway.machine.machine import Machine
from gateway.reload import Reloader
from gateway.store.opening import engine_memory
from gateway.telemetry.families import Dump
from gateway.telemetry.merging import in_parts, lasting, merge, of_master
from gateway.telemetry.metrics import Metrics
from gateway.together import Leader
from gateway.worker import VIEWS, views_of

if TYPE_CHECKING:
    from gateway.store.store import Store

log = logging.getLogger("gateway.workers")

PAUSE = 1.0
"""Seconds between the end of a worker and the start of the next."""


class Master:
    """Starts the workers and the engines, and stops them."""

    def __init__(
        self,
        read: tuple[Path, Loaded, Disk],
        port: int,
        count: int,
        on_listening: Callable[[], None],
        on_ready: Callable[[list[str]], None],
        store: Store | None = None,
    ) -> None:
        """Start nothing yet.

        `read` is the path of the config, the config, and the disk it was read from. `port` is where workers listen.
        `on_listening` is called once when the first worker accepts connections, `on_ready` once with the names of the
        models when a backend can take requests. `store` is for what the engines take; `run` closes it.
        """
        self._count = count
        self._store = store
        self._on_listening: Callable[[], None] | None = on_listening
        self._on_ready: Callable[[list[str]], None] | None = on_ready
        self._metrics = Metrics("")
        self._past: Dump = []
        """The metrics of workers that have ended, as they told them last."""
        self._links: dict[Link, Dump] = {}
        """The metrics of each worker, as it told them last."""
        self._listening: set[Link] = set()
        """Workers that serve, and answer questions: one that still starts would keep everybody waiting."""
        self._locations: dict[str, Location] = {}
        self._reports: dict[str, tuple[Report, float]] = {}
        """The last report of each engine's load, and the loop's time then."""
        self._fleet = Fleet(
            self._metrics,
            Random(),
            lambda: None,
            on_location=self._on_location,
            busy=self._busy,
            on_report=self._on_report,
            used=self._used,
        )
        self._machine = Machine(self._fleet.launched, self._metrics.machine)
        self._keeper = self._keeper_with(store)
        path, loaded, disk = read
        self._fleet.apply(loaded.config)
        self._leader = Leader(path, loaded, disk, port, self._fleet)
        self._leader.serving, self._leader.links = lambda: self._listening, lambda: self._links
        self._leader.end = lambda link: self._processes[link].terminate()
        self._reloader = Reloader(path, loaded, disk, self._leader, self._metrics)
        self._processes: dict[Link, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self._answers: dict[str, Callable[[Link, Message], Coroutine[Any, Any, None]]] = {
            "order": self._answer_order,
            "question": self._answer_question,
            "reload": self._answer_reload,
            "profile": self._answer_profile,
            "total": self._answer_total,
            "backends": self._answer_backends,
            "printed": self._answer_printed,
        }

    def _keeper_with(self, store: Store | None) -> Keeper:
        """Return what decides of the engines, with what it looks at."""
        keeper = self._fleet.keeper
        assert keeper is not None
        keeper.machine = self._machine
        if store is not None:
            keeper.remembering = Remembering(engine_memory(store))
        return keeper

    def hup(self) -> None:
        """Read the config anew, because this process or a worker got a SIGHUP."""
        self._reloader.wake("SIGHUP")

    async def run(self) -> None:
        """Run the workers until a signal comes and all have ended."""
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, self._on_signal)
        works = (self._fleet.run(), self._reloader.run(), self._machine.run())
        beside = [asyncio.create_task(work) for work in works]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._count):
                    group.create_task(self._keep(number))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            if self._store is not None:
                await self._store.close()

    async def _keep(self, number: int) -> None:
        """Keep one worker running: start another when it ends."""
        while not self._stopping.is_set():
            status = await self._one()
            if not self._stopping.is_set():
                log.error("worker %d ended with status %d; starting another", number, status)
                try:
                    async with asyncio.timeout(PAUSE):
                        await self._stopping.wait()
                except TimeoutError:
                    pass

    async def _one(self) -> int:
        """Run one worker process. Return its exit status."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "worker"),
                *("--link", str(theirs.fileno()), "--workers", str(self._count)),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                # Ctrl-C goes to the master alone, which ends the workers.
                start_new_session=True,
            )
        link = await Link.on(ours)
        self._processes[link] = process
        self._links[link] = []
        try:
            await self._hand(process)
            if self._stopping.is_set():
                process.terminate()
            for location in self._locations.values():
                link.tell("location", location=asdict(location))
            now = asyncio.get_running_loop().time()
            for report, at in self._reports.values():
                link.tell("load", report=asdict(report.aged(now - at)))
            for order in self._fleet.standing():
                link.tell("obey", order=order.plain())
            await link.listen(lambda message: self._on_message(link, message))
            return await process.wait()
        finally:
            del self._processes[link]
            self._listening.discard(link)
            self._keeper.forget(link)
            self._past = merge([self._past, lasting(self._links.pop(link))], self._metrics.across)

    async def _hand(self, process: asyncio.subprocess.Process) -> None:
        """Give a worker the config to run by."""
        assert process.stdin is not None
        process.stdin.write(self._leader.handed.encode())
        process.stdin.close()
        with contextlib.suppress(OSError):  # a worker that is gone needs none
            await process.stdin.wait_closed()

    def _on_message(self, link: Link, message: Message) -> None:
        if message["kind"] == "listening":
            self._listening.add(link)
            if self._on_listening is not None:
                self._on_listening()
                self._on_listening = None
        elif message["kind"] == "ready" and self._on_ready is not None:
            self._on_ready(message["models"])
            self._on_ready = None
        elif message["kind"] == "changed":
            self._fleet.wake(message["name"])
            for other in self._links.keys() - {link}:
                other.tell("changed", name=message["name"])
        elif message["kind"] == "want":
            self._keeper.want(link, message["name"], message["waiting"])
        elif message["kind"] == "keep":
            self._keeper.keep(message["name"], message["seconds"], message["at_once"])
        elif message["kind"] == "hup":
            self.hup()
        elif answering := self._answers.get(message["kind"]):
            self._answer(answering(link, message))

    def _answer(self, answering: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answering)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_backends(self, link: Link, message: Message) -> None:
        own = views_of(self._fleet)
        told = [VIEWS.validate_python(views, strict=False) for views in await self._from_all("views")]
        link.answer(message, VIEWS.dump_python(merged(own, told), mode="json"))

    async def _answer_printed(self, link: Link, message: Message) -> None:
        page = await self._fleet.printed(message["name"], Position(*message["at"]), message["wait"])
        link.answer(message, page and page.plain())

    async def _answer_order(self, link: Link, message: Message) -> None:
        order = Order.read(message["order"])
        self._fleet.obey(order)
        for other in self._links.keys() - self._listening:
            other.tell("obey", order=order.plain())
        await self._from_all("obey", order=order.plain())
        link.answer(message, None)

    async def _answer_question(self, link: Link, message: Message) -> None:
        about, arguments = message["about"], message["arguments"]
        told = await self._from_all("question", about=about, arguments=arguments)
        if told:
            link.answer(message, merged_answers(about, arguments, told))

    async def _answer_reload(self, link: Link, message: Message) -> None:
        link.answer(message, asdict(await self._reloader.ask()))

    async def _answer_profile(self, link: Link, message: Message) -> None:
        await self._leader.use_profile(message["name"])
        link.answer(message, None)

    async def _busy(self, backend: Backend) -> BusyPeriods:
        """Return the busy periods of all workers at a backend."""
        told = await self._from_all("busy", name=backend.name)
        return frozenset((process, number) for periods in told for process, number in periods)

    async def _used(self) -> Uses:
        """Return how all workers use each launched backend."""
        total: dict[str, Use] = {}
        for told in await self._from_all("uses"):
            for name, (times, requests) in told.items():
                before = total.get(name, Use(0, 0))
                total[name] = Use(before.times + times, before.requests + requests)
        return total

    async def _from_all(self, kind: str, **content: Any) -> list[Any]:
        """Ask all workers. Return the answers of those that do answer."""
        asked = (link.ask(kind, **content) for link in tuple(self._listening))
        return [
            answer
            for answer in await asyncio.gather(*asked, return_exceptions=True)
            if not isinstance(answer, BaseException)
        ]

    async def _answer_total(self, link: Link, message: Message) -> None:
        async def numbers(other: Link) -> None:
            try:
                told = await other.ask_for_parts("numbers")
                if other in self._links:
                    self._links[other] = told
            except TimeoutError:
                log.warning("a worker does not tell its metrics; showing what it told last")

        await asyncio.gather(*map(numbers, tuple(self._listening)))
        across = self._metrics.across
        own = of_master(self._metrics.dump(), across)
        total = merge([self._past, own, *self._links.values()], across)
        await link.answer_in_parts(message, in_parts(total))

    def _on_location(self, location: Location) -> None:
        self._locations[location.name] = location
        for link in self._links:
            link.tell("location", location=asdict(location))

    def _on_report(self, report: Report) -> None:
        self._reports[report.name] = report, asyncio.get_running_loop().time()
        for link in self._links:
            link.tell("load", report=asdict(report))

    def _on_signal(self) -> None:
        self._stopping.set()
        for process in self._processes.values():
            process.terminate()

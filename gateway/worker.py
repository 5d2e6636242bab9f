"""One of several gateway processes that serve: its link to the master, which starts and watches them.

Rules:
- What there is only once (launched engines, their signals, the config, an operator's orders) the master has and tells.
- Where the master does not answer, an operator sees what this process alone knows, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pydantic import TypeAdapter

from gateway.adopt import Process
from gateway.config.outcome import Outcome
from gateway.errors import GatewayError, Own
from gateway.fleet.fleet import Fleet
from gateway.fleet.location import Location
from gateway.fleet.orders import Order
from gateway.fleet.peers import Own as Answers
from gateway.fleet.ring import Page, Position
from gateway.fleet.signals import Report
from gateway.fleet.view import BackendView
from gateway.link import PATIENCE, Link, Message
from gateway.telemetry.families import Dump
from gateway.telemetry.metrics import Metrics
from gateway.together import RELOAD, Follower

log = logging.getLogger("gateway.workers")

VIEWS = TypeAdapter(list[BackendView])
"""Backends as they are told over the link."""
_REPORT = TypeAdapter(Report)


class _Wishes:
    """What requests of a worker want of engines, told to the master; see `gateway.fleet.residence.Wishes`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def want(self, name: str, waiting: int) -> None:
        self._link.tell("want", name=name, waiting=waiting)

    def keep(self, name: str, seconds: float, at_once: bool) -> None:
        self._link.tell("keep", name=name, seconds=seconds, at_once=at_once)


class Worker:
    """A worker's side: the worker's `Peers`, and what the master asks of it and tells it."""

    launches = False

    def __init__(self, link: Link, serving: int = 1) -> None:
        """Use the link to the master; nothing is read from it before `run`. `serving`: how many workers there are."""
        self._link = link
        self._own: Answers | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self.serving = serving
        self._told: asyncio.Queue[Message] = asyncio.Queue()

    async def run(self, fleet: Fleet, metrics: Metrics, stop: Callable[[], None], own: Answers) -> None:
        """Serve the link until the master is gone; then call `stop`.

        `fleet` and `metrics` are this worker's own; `own` answers operators' questions for it.
        """
        self._own = own
        await self._link.listen(lambda message: self._on_message(message, fleet, metrics))
        stop()

    @property
    def wishes(self) -> _Wishes:
        """Tells the master what requests of this worker want of engines."""
        return _Wishes(self._link)

    def follower(self, process: Process) -> Follower:
        """Return what makes this process fit another config whenever the master says so."""
        return Follower(self._link, process, self._told)

    def tell_listening(self) -> None:
        """Tell the master that connections are accepted."""
        self._link.tell("listening")

    def tell_ready(self, models: list[str]) -> None:
        """Tell the master that some backend can take requests, and which models there are."""
        self._link.tell("ready", models=models)

    async def page(self, metrics: Metrics, openmetrics: bool) -> Iterable[str]:
        """Return the metrics page with the numbers of all workers, in pieces that are made one by one."""
        try:
            total: Dump = await self._link.ask_for_parts("total", 2 * PATIENCE)
        except TimeoutError:
            log.warning("the master did not tell the metrics of all workers; these are one worker's")
            return metrics.pieces(openmetrics)
        return metrics.pieces_of(total, openmetrics)

    async def views(self, fleet: Fleet) -> list[BackendView]:
        """Return the backends as all workers and the master see them."""
        try:
            return VIEWS.validate_python(await self._link.ask("backends", 2 * PATIENCE), strict=False)
        except TimeoutError:
            log.warning("the master did not tell what all workers see; this is one worker's view")
            return views_of(fleet)

    async def order(self, fleet: Fleet, order: Order) -> None:
        """Have all workers and the master do what an operator has ordered. Raises GatewayError."""
        await self._must("order", order=order.plain())

    async def _must(self, kind: str, patience: float = 2 * PATIENCE, **content: Any) -> Any:
        try:
            return await self._link.ask(kind, patience, **content)
        except TimeoutError:
            message = "the gateway's master process does not answer; nobody knows who has heard of the order"
            raise GatewayError(Own.INTERNAL, message) from None

    async def asked(self, kind: str, arguments: dict[str, Any], own: Answers) -> Any:
        """Return what all workers answer to a question, as one answer."""
        try:
            return await self._link.ask("question", 2 * PATIENCE, about=kind, arguments=arguments)
        except TimeoutError:
            log.warning("the master did not tell what all workers answer; this is one worker's answer")
            return await own(kind, arguments)

    async def printed(self, fleet: Fleet, name: str, at: Position, patience: float) -> Page | None:
        """Return what a launched engine has printed since a position. Raises GatewayError."""
        try:
            told = await self._link.ask("printed", patience + PATIENCE, name=name, at=at, wait=patience)
        except TimeoutError:
            message = "the gateway's master process, which runs the engine, does not answer"
            raise GatewayError(Own.INTERNAL, message) from None
        return told and Page.of(told)

    async def _answer_question(self, message: Message) -> None:
        assert self._own is not None
        self._link.answer(message, await self._own(message["about"], message["arguments"]))

    async def changed(self, fleet: Fleet, name: str) -> None:
        """Ask a backend for its models anew: this worker has changed them. Have all other workers do the same."""
        self._link.tell("changed", name=name)
        await fleet.refresh(name)

    async def reload(self) -> Outcome:
        """Have the master read the config anew, and return what became of that."""
        return Outcome.of(await self._must("reload", RELOAD))

    async def profile(self, use: Callable[[str | None], None], name: str | None) -> None:
        """Have the master tell all workers, this one too, which profile is active. Raises GatewayError."""
        await self._must("profile", name=name)

    def hup(self) -> None:
        """Have the master read the config anew, because this process got a SIGHUP."""
        self._link.tell("hup")

    def _begin(self, answering: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answering)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _on_message(self, message: Message, fleet: Fleet, metrics: Metrics) -> None:
        match message["kind"]:
            case "location":
                fleet.relocate(Location(**message["location"]))
            case "load":
                fleet.take_report(_REPORT.validate_python(message["report"], strict=False))
            case "changed":
                fleet.wake(message["name"])
            case "obey":
                fleet.obey(Order.read(message["order"]))
                if "number" in message:
                    self._link.answer(message, None)
            case "question":
                self._begin(self._answer_question(message))
            case "numbers":
                self._begin(self._link.answer_in_parts(message, metrics.dump_parts()))
            case "views":
                self._link.answer(message, VIEWS.dump_python(views_of(fleet), mode="json"))
            case "uses":
                self._link.answer(message, fleet.uses())
            case "busy":
                self._link.answer(message, list(fleet.busy_periods(message["name"])))
            case "prepare" | "commit" | "abort" | "outcome" | "use_profile":
                self._told.put_nowait(message)


def views_of(fleet: Fleet) -> list[BackendView]:
    """Return the backends as this process sees them now."""
    return fleet.views(asyncio.get_running_loop().time())

"""One value for a request: made once when its head has been read, handed on to everybody, ended exactly once.

Rules:
- Everything that is known of a request stands here, so that no part of its path takes more than a few arguments.
- `end` is the only way out. It tells the client what there is to tell, hands the request to the sink that counts it,
  and lets the client's connection go on, in this order, whatever happened.
- Whoever does something for a request is `work`, or runs in `task`; both end when the client leaves.
- Nothing refers to a request that has ended, and it refers to nobody: no circle of references is left to be found.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from backends.base import Headers, Operation, Request
from backends.surfaces.openai import JSON_HEADERS
from backends.surfaces.surface import InvalidRequest, Surface
from gateway.errors import ClientLeft, GatewayError, Own
from gateway.telemetry.cells import NONE
from gateway.telemetry.timeline import FINISH, Timeline

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.routing.catalog import Plan

log = logging.getLogger("gateway.request")


class Source(Protocol):
    """Where an answer's bytes come from."""

    def pause(self) -> None:
        """Stop reading: the client cannot keep up."""

    def resume(self) -> None:
        """Read on."""


class WayBack(ABC):
    """The way from an answer to its client, for one request.

    `started`: status and headers have been sent. `gone`: the client is not there any more, and what is written goes
    nowhere. `write` never waits; when the client's socket is full, the attached source is paused, and resumed after.
    An answer ends by `finish`, `reply` or `abort`. `release` comes last, when nobody has anything left to write.
    """

    __slots__ = ("exchange", "gone", "loop", "source", "started")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.gone: bool = False
        self.started: bool = False
        self.source: Source | None = None
        self.exchange: Exchange | None = None

    @abstractmethod
    def start(self, status: int, headers: Headers) -> None:
        """Send status and headers of an answer whose length is not known yet."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send some of the body."""

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        """Send `framed[start:end]`. `framed` is one whole chunk of HTTP's chunked coding around it, for those who can
        send it as it is."""
        self.write(framed[start:end])

    @abstractmethod
    def finish(self) -> None:
        """End an answer that is complete."""

    @abstractmethod
    def abort(self) -> None:
        """End an answer that is not complete: send what is buffered, then close the connection without the proper end,
        so that no client takes a broken answer for a whole one."""

    @abstractmethod
    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer at once."""

    @abstractmethod
    def release(self) -> None:
        """Let the client's connection go on to its next request."""

    def lost(self, outcome: str = "client_gone") -> None:
        """Note that the client is gone, and end its request."""
        self.gone = True
        exchange = self.exchange
        if exchange is not None:
            exchange.interrupt(ClientLeft(outcome))


class Work(Protocol):
    """What goes on for a request and needs no task."""

    def interrupt(self, error: Exception) -> None:
        """Stop, give everything back, and end the request with `error`."""


class Beating(Protocol):
    """What keeps a client's connection alive until there is content."""

    def stop(self) -> None: ...


class FinishedSink(Protocol):
    """Who is told of each finished request: metrics, logs, whatever counts or remembers."""

    def finished(self, exchange: Exchange) -> None: ...


class Register:
    """The requests that are in the gateway now."""

    __slots__ = ("_empty", "running")

    def __init__(self) -> None:
        self.running: set[Exchange] = set()
        self._empty: asyncio.Event | None = None

    def remove(self, exchange: Exchange) -> None:
        """A request has ended."""
        self.running.discard(exchange)
        if self._empty is not None and not self.running:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until no request is left."""
        while self.running:
            self._empty = asyncio.Event()
            await self._empty.wait()


class Exchange:
    """One request of a client, and all that is known of it.

    `caller`, `request` and `plan` are set as soon as each is known; `model`, `backend` and `outcome` are the metrics'
    words; `deadline` is a time on the timeline's clock; `trace` holds header lines that go on to the engine.
    """

    __slots__ = (
        "attempts",
        "backend",
        "beating",
        "caller",
        "deadline",
        "headers",
        "id",
        "interrupted",
        "model",
        "operation",
        "outcome",
        "over",
        "plan",
        "register",
        "request",
        "sink",
        "surface",
        "task",
        "timeline",
        "trace",
        "waiting",
        "way",
        "work",
    )

    def __init__(self, way: WayBack, began: int, register: Register, sink: FinishedSink) -> None:
        """`began` is the time its first byte was read, in nanoseconds of the timeline's clock."""
        self.way: WayBack = way
        self.timeline: Timeline = Timeline(began)
        self.register: Register = register
        self.sink: FinishedSink = sink
        self.id: bytes = b""
        self.headers: Mapping[bytes, bytes] = {}
        self.trace: bytes = b""
        self.plan: Plan
        self.caller: Caller
        self.request: Request
        self.surface: Surface
        self.operation: Operation
        self.deadline: int = 0
        self.attempts: int = 0
        self.model: str = NONE
        self.backend: str = NONE
        self.outcome: str = "ok"
        self.over: bool = False
        self.task: asyncio.Task[None] | None = None
        self.work: Work | None = None
        self.interrupted: Exception | None = None
        self.beating: Beating | None = None
        self.waiting: asyncio.Future[None] | None = None
        way.exchange = self
        register.running.add(self)

    @property
    def name(self) -> str:
        """The request's id as text, for logs."""
        return self.id.decode()

    # the answer

    def start(self, headers: Headers) -> None:
        """Begin an answer that comes in pieces, unless it has begun."""
        if not self.way.started:
            self.way.start(200, [*headers, (b"x-request-id", self.id)])

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer, as all there is or as the rest of one that has begun."""
        if self.way.started:
            self.way.write(body)
            self.way.finish()
        else:
            self.way.reply(status, [*headers, (b"x-request-id", self.id)], body)

    def has_content(self) -> None:
        """The first content is on its way to the client: stop the signs of life."""
        if self.beating is not None:
            self.beating.stop()
            self.beating = None

    def _refuse(self, error: GatewayError) -> None:
        self.outcome = error.outcome
        if self.way.started:
            self.way.write(self.surface.error_event(error.told))
            self.way.abort()
        else:
            body = self.surface.error(error.told)
            self.reply(error.status, [*JSON_HEADERS, *error.headers()], body)

    # the end

    def interrupt(self, error: Exception) -> None:
        """End the request from outside: the client left, or the gateway stops. What goes on for it is stopped first."""
        if self.over:
            return
        if self.task is not None:
            self.interrupted = error
            self.task.cancel()
        elif self.work is not None:
            self.work.interrupt(error)
        else:
            self.end(error)

    def withdraw(self) -> None:
        """Forget the request: it is served as another one, by the full protocol."""
        self.over = True
        self.way.exchange = None
        self.register.remove(self)

    def end(self, error: BaseException | None = None) -> None:
        """End the request, with `error` where there is no whole answer. Raises nothing."""
        if self.over:
            return
        self.over = True
        self.timeline.mark(FINISH)
        self.has_content()
        if error is not None:
            self._tell(error)
        self.work = self.task = None
        self.timeline.mark(FINISH)
        self.register.remove(self)
        self.sink.finished(self)
        way = self.way
        way.source = way.exchange = None
        way.release()
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def _tell(self, error: BaseException) -> None:
        """Tell the client what went wrong, and note it for the metrics. The one place that knows what each kind of
        exception means for a request."""
        if isinstance(error, InvalidRequest):
            error = GatewayError.invalid(error)
        if isinstance(error, GatewayError):
            self._refuse(error)
        elif isinstance(error, ClientLeft):
            self.outcome = error.outcome
        else:
            log.error("request %s failed in the gateway", self.name, exc_info=error)
            self._refuse(GatewayError(Own.INTERNAL, "the gateway failed; its log has this request's id"))

    async def ended(self) -> None:
        """Wait until the request has ended. Cancelled meanwhile, it ends with an error that the gateway is stopping."""
        self.waiting = asyncio.get_running_loop().create_future()
        while not self.over:
            try:
                await asyncio.shield(self.waiting)
            except asyncio.CancelledError:
                self.interrupt(GatewayError(Own.DRAINING, "the gateway is shutting down"))

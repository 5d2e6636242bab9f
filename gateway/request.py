"""The one object that stands for a request: created when its head has been read, ended exactly once.

Rules:
- Everything that is known about a request is stored here, so that no function on its path needs many arguments.
- `end` is the only way to end a request. It first writes an error to the client if there is one, then passes the
  request to the sink that counts it, then releases the client's connection for the next request.
- Whatever serves a request is its `work` or runs in its `task`. Both are stopped when the client leaves.
- A request that has ended holds no reference to the objects that served it, and they hold none to it. So no reference
  cycle is left for the garbage collector.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from backends.base import Headers, Kind, Operation, Request, Usage
from backends.surfaces.openai import JSON_HEADERS
from backends.surfaces.surface import Begun, Broken, InvalidRequest, Surface
from backends.surfaces.translation import Writer
from gateway.asked import ESTIMATED, Asked
from gateway.errors import CLIENT_GONE, ClientLeft, GatewayError, Own
from gateway.roles import Beating, Source, Standing, Trying, Work
from gateway.telemetry.cells import NONE
from gateway.telemetry.timeline import FINISH, Timeline
from gateway.telemetry.trace import Trace, read

if TYPE_CHECKING:
    from gateway.auth import Caller
    from gateway.routing.catalog import Group, Plan
    from gateway.routing.decision import Decision

log = logging.getLogger("gateway.request")


class WayBack(ABC):
    """The channel that carries the answer of one request to its client.

    `started` is true once status and headers have been sent. `gone` is true once the client has disconnected; writes
    are then discarded. `write` never blocks: when the client's socket buffer is full, `source` is paused, and it is
    resumed when there is room. `finish`, `reply` or `abort` ends the answer; `release` is always called last.
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
        """Send status and headers of an answer whose length is not yet known."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send a part of the body."""

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        """Send `framed[start:end]`, a part of the body.

        `framed` is that part as one complete chunk of the chunked transfer coding. A channel that uses this coding may
        send it unchanged.
        """
        self.write(framed[start:end])

    @abstractmethod
    def finish(self) -> None:
        """End an answer that is complete."""

    @abstractmethod
    def abort(self) -> None:
        """End an answer that is incomplete.

        Data that is already buffered is sent, then the connection is closed without the end mark of the body, so that
        the client cannot mistake the answer for a complete one.
        """

    @abstractmethod
    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete answer at once."""

    @abstractmethod
    def release(self) -> None:
        """Release the client's connection for its next request."""

    def client(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's address, of a request with these headers; empty where it is not known."""
        return ""

    def keep(self, exchange: Exchange) -> bool:
        """Call the request's `count` once its client has taken the answer, or never will. Return False if that is now.

        The answer has been written completely.
        """
        return False

    def lost(self, outcome: str = CLIENT_GONE) -> None:
        """Record that the client has disconnected, and end its request with `outcome` for the metrics."""
        self.gone = True
        exchange = self.exchange
        if exchange is not None:
            exchange.interrupt(ClientLeft(outcome))


class FinishedSink(Protocol):
    """A consumer of finished requests, such as metrics or an access log."""

    def finished(self, exchange: Exchange) -> None:
        """Record one request that has ended."""


class Register:
    """The requests that the gateway is serving now."""

    __slots__ = ("_empty", "running")

    def __init__(self) -> None:
        self.running: set[Exchange] = set()
        self._empty: asyncio.Event | None = None

    def remove(self, exchange: Exchange) -> None:
        """Remove a request that has ended."""
        self.running.discard(exchange)
        if self._empty is not None and not self.running:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until no request is running."""
        while self.running:
            self._empty = asyncio.Event()
            await self._empty.wait()


class Exchange:
    """One request of a client, and everything that is known about it.

    `caller`, `request`, `asked` and `plan` are set as soon as each is known. `model`, `backend`, `engine`, `route` (the
    rule that decided), `key` and `outcome` are label values for the metrics; `served` is the model of the last attempt:
    `model`, or one of its fallbacks, and `usage` its tokens once it is over. `deadline` is in nanoseconds of the
    timeline's clock. `trace` holds the header lines of the trace context that are forwarded to the engine, `cors`
    headers of the answer. `coding` is how the body comes compressed. `status` is that of the answer, 0 while there is
    none, and `code` what its error says. `first_token_at` is in nanoseconds of the timeline's clock, 0 before it and
    where the answer is no stream.
    """

    __slots__ = (
        "asked",
        "attempt",
        "attempts",
        "backend",
        "beating",
        "broken",
        "caller",
        "code",
        "coding",
        "cors",
        "deadline",
        "decision",
        "engine",
        "first_token_at",
        "groups",
        "headers",
        "id",
        "interrupted",
        "key",
        "left_at",
        "may_estimate",
        "model",
        "operation",
        "outcome",
        "over",
        "plan",
        "queue_position",
        "refused",
        "register",
        "request",
        "route",
        "served",
        "sink",
        "standing",
        "status",
        "surface",
        "task",
        "timeline",
        "trace",
        "traced",
        "usage",
        "waiting",
        "way",
        "work",
        "writer",
    )

    def __init__(self, way: WayBack, began: int, register: Register, sink: FinishedSink) -> None:
        """Register a request whose first byte was read at `began`, in nanoseconds of the timeline's clock."""
        self.way: WayBack = way
        self.timeline: Timeline = Timeline(began)
        self.register: Register = register
        self.sink: FinishedSink = sink
        self.id: bytes = b""
        self.headers: Mapping[bytes, bytes] = {}
        self.coding: bytes = b""
        self.cors: Headers = ()
        self.trace: bytes = b""
        self.traced: Trace | None = None  # its trace; None where the gateway makes none
        self.plan: Plan
        self.groups: tuple[Group, ...] | None = None
        """Those groups of the plan that can serve this very request; None: all that can do its operation."""
        self.caller: Caller
        self.request: Request
        self.asked: Asked
        self.decision: Decision | None = None
        self.surface: Surface
        self.operation: Operation
        self.may_estimate: bool = False  # whether an estimate is an answer to what no engine can count
        self.deadline: int = 0
        self.attempt: Trying | None = None  # the one that was sent last
        self.attempts: int = 0
        self.model = self.backend = self.engine = self.route = self.key = self.served = NONE
        self.outcome: str = "ok"
        self.status: int = 0
        self.code: str = ""
        self.first_token_at: int = 0
        self.refused: bool = False  # whether its client was told an error of which no engine is the reason
        self.left_at: int = 0  # the hop it was in when it ended
        self.usage: Usage | None = None
        self.broken: Begun | None = None  # what has read, or written, the stream that broke off
        self.writer: Writer | None = None  # what has begun its client's stream before any engine answered
        self.queue_position: int = 0  # where it stood when it began to wait for a slot; 0 if it did not wait
        self.standing: Standing | None = None  # where it stands while it waits for a slot
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
        """Return the request's id as text, for logs."""
        return self.id.decode()

    @property
    def trace_id(self) -> str:
        """Return the id of the trace it belongs to, the gateway's or its client's; empty where there is none."""
        traced = self.traced
        if traced is not None:
            return traced.trace_id.decode()
        context = read(self.headers.get(b"traceparent", b""))
        return "" if context is None else context.trace_id.decode()

    # writing the answer

    def start(self, headers: Headers) -> None:
        """Send the head of a streamed answer, unless it has been sent already."""
        if not self.way.started:
            self.status = 200
            self.way.start(200, [*headers, *self.marks(), *self.cors])

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete answer; if the head has been sent already, send `body` as the rest of that answer."""
        if self.way.started:
            self.way.write(body)
            self.way.finish()
        else:
            self.status = status
            self.way.reply(status, [*headers, *self.marks(), *self.cors], body)

    def marks(self) -> Headers:
        """Return the headers by which an answer is found again: the request's id, the decision's, and its rule."""
        decision, marks = self.decision, self.surface.marks(self.id)
        if decision is None:
            return marks
        marks = (*marks, (b"x-gateway-decision", decision.id))
        return (*marks, (b"x-gateway-route", decision.rule.encode())) if decision.rule else marks

    def has_content(self) -> None:
        """Stop the heartbeat, because the first content is about to be sent to the client."""
        if self.beating is not None:
            self.beating.stop()
            self.beating = None

    def _refuse(self, error: GatewayError) -> None:
        self.outcome = error.outcome
        self.code = error.code or error.type
        self.refused = error.own
        if self.way.started:
            broken = Broken(getattr(self, "request", None), self.id, self.broken)
            self.way.write(self.surface.error_event(error.facts, broken))
            if self.surface.ends(broken):
                self.way.finish()
            else:
                self.way.abort()
        else:
            facts = error.facts
            body, status = self.surface.error(facts, self.id), self.surface.status(facts, error.status)
            self.reply(status, [*JSON_HEADERS, *error.headers(), *self._tried()], body)

    def _tried(self) -> Headers:
        """Return the headers that tell where the request was tried last, if it was."""
        if not self.attempts or self.backend == NONE:
            return ()
        return (b"x-gateway-backend", self.backend.encode()), (b"x-gateway-attempts", b"%d" % self.attempts)

    # ending the request

    def interrupt(self, error: Exception) -> None:
        """Stop whatever serves the request, then end it with `error`: the client left, or the gateway is stopping."""
        if self.over:
            return
        if self.work is not None:
            self.work.interrupt(error)
        elif self.task is not None:
            self.interrupted = error
            self.task.cancel()
        else:
            self.end(error)

    def withdraw(self) -> None:
        """Discard the request uncounted: the full protocol reads it again and serves it as a new one."""
        self.over = True
        self.way.exchange = None
        self.register.remove(self)

    def end(self, error: BaseException | None = None) -> None:
        """End the request; `error` says why it has no complete answer, None that it has one. Raises nothing."""
        if self.over:
            return
        self.over = True
        self.left_at = self.timeline.hop
        self.timeline.mark(FINISH)
        self.has_content()
        try:
            if error is not None:
                self._tell(error)
            if not self.way.keep(self):
                self.count()
        except Exception as bug:  # noqa: BLE001 (whatever it is, the request ends)
            self._report(bug)
        finally:
            self._let_go()

    def count(self, outcome: str = "") -> None:
        """Pass the request to its sink. `outcome` says what became of an answer that its client did not take."""
        if outcome and self.outcome == "ok":
            self.outcome = outcome
        self.timeline.mark(FINISH)
        try:
            self.sink.finished(self)
        except Exception as bug:  # noqa: BLE001 (as above)
            self._report(bug)

    def _report(self, bug: Exception) -> None:
        log.error(
            "request %s did not end as it should, which is a bug of the gateway", self.name, exc_info=bug
        )

    def _let_go(self) -> None:
        """Leave the register, and let the client's connection and whoever waits for the end go on."""
        self.work = self.task = self.attempt = self.broken = self.writer = None
        self.register.remove(self)
        way = self.way
        way.source = way.exchange = None
        way.release()
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def _tell(self, error: BaseException) -> None:
        """Write an error to the client and record the outcome for the metrics.

        Nothing else maps the exceptions that can end a request to what the client gets.
        """
        if isinstance(error, InvalidRequest):
            error = GatewayError.invalid(error)
        if self.may_estimate and isinstance(error, GatewayError) and error.kind is Kind.UNSUPPORTED:
            self.reply(200, ESTIMATED, self.asked.count())
        elif isinstance(error, GatewayError):
            self._refuse(error)
        elif isinstance(error, ClientLeft):
            self.outcome = error.outcome
        else:
            log.error("request %s failed in the gateway", self.name, exc_info=error)
            self._refuse(GatewayError(Own.INTERNAL, "the gateway failed; its log has this request's id"))

    async def ended(self) -> None:
        """Wait until the request has ended. Cancelling the wait ends it with the error that the gateway is stopping."""
        self.waiting = asyncio.get_running_loop().create_future()
        while not self.over:
            try:
                await asyncio.shield(self.waiting)
            except asyncio.CancelledError:
                self.interrupt(GatewayError(Own.DRAINING, "the gateway is shutting down"))

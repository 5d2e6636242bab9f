"""One attempt: a request goes to one backend, and its answer to the client.

Rules:
- Until the first content of a stream the client gets nothing (commit late); what failed before may be tried elsewhere.
- After that a failure ends the stream: whoever hears of the attempt's end tells the client, never by a clean end.
- Each phase has its clock (`gateway.wire.clocks`). Comments and empty events do not count as progress.
- Nothing here waits but `connect`. Bytes go from the engine's socket to the client's in one synchronous pass, without a
  task, a future or an await; the client's back-pressure pauses the engine's socket.
- The connection goes back to the pool only after a complete answer, whatever ends the attempt.
"""

from __future__ import annotations

import dataclasses
import logging
from time import perf_counter_ns
from typing import Final, Protocol

import msgspec

from backends.base import (
    Engine,
    Failure,
    Headers,
    Kind,
    Operation,
    Phase,
    Reply,
    RequestError,
    StreamDecoder,
    Usage,
)
from backends.dialect import gathered
from backends.dialect.stream import EventStream
from gateway.request import Exchange, WayBack
from gateway.telemetry.cells import Histogram, TargetMetrics
from gateway.telemetry.timeline import CONNECT, FINISH, FIRST_BYTE, FIRST_TOKEN, SEND, STREAM
from gateway.wire.clocks import LATE, SECOND, Clocks
from gateway.wire.connection import Connection, Sink
from gateway.wire.upstream import ConnectError, Upstream

log = logging.getLogger("gateway.relay")

MAX_REPLY: Final = 64 << 20
"""Bytes of an answer that is not a stream."""
MAX_ERROR: Final = 64 << 10
MAX_HELD: Final = 256 << 10
"""Bytes of a stream held back before its first content."""
MAX_STREAM = 256 << 20
"""Bytes of a whole stream. Long answers with log probabilities stay below; an engine beyond it ignores every limit."""


class Place(Protocol):
    """The backend that an attempt goes to."""

    @property
    def engine(self) -> Engine: ...
    @property
    def upstream(self) -> Upstream | None: ...


class Destination(Protocol):
    """Where an attempt goes: a backend, its name for the model, the limits there, and what is counted there."""

    @property
    def backend(self) -> Place: ...
    @property
    def model(self) -> str: ...
    @property
    def clocks(self) -> Clocks: ...
    @property
    def metrics(self) -> TargetMetrics: ...


class Listener(Protocol):
    """Who is told that an attempt is over."""

    def attempt_over(self, attempt: Attempt) -> None: ...


class Attempt(Sink):
    """One try of one request at one backend.

    `begin` sends it where an idle connection is at hand; otherwise `connect` makes one first. `listener` is told once
    when it is over, and then reads what became of it: `complete` where the client has the whole answer, else `failure`;
    neither where it was given up. `crash` is what an adapter raised, a bug.
    `committed`: the client has received content. `sent_at` and `first_token_at` are times
    on the timeline's clock, 0 for never.
    """

    __slots__ = (
        "_clocks",
        "_connection",
        "_data",
        "_decoder",
        "_engine",
        "_events",
        "_exchange",
        "_gathers",
        "_headers",
        "_listener",
        "_model",
        "_over",
        "_parts",
        "_phase",
        "_renewed",
        "_reply_headers",
        "_since",
        "_size",
        "_status",
        "_streams",
        "_token_gap",
        "_upstream",
        "_way",
        "committed",
        "complete",
        "crash",
        "failure",
        "first_token_at",
        "sent_at",
        "usage",
    )

    def __init__(self, exchange: Exchange, target: Destination, listener: Listener, headers: Headers) -> None:
        """`headers` go to the client with the answer."""
        backend = target.backend
        request = exchange.request
        upstream = backend.upstream
        assert upstream is not None
        self._exchange: Exchange = exchange
        self._way: WayBack = exchange.way
        self._upstream: Upstream = upstream
        self._engine: Engine = backend.engine
        self._model: str = target.model
        self._clocks: Clocks = target.clocks
        self._token_gap: Histogram = target.metrics.token_gap
        self._listener: Listener | None = listener
        self._headers: Headers = headers
        self._streams: bool = request.stream
        self._gathers: bool = not (request.stream or request.operation is Operation.SPEECH)
        """A stream that comes is put together to one answer. Sound is neither: it comes in pieces, asked or not."""
        self._data: bytes = b""
        """The whole request in the bytes of the wire, until the engine has begun to answer it."""
        self._connection: Connection | None = None
        self._decoder: StreamDecoder | None = None
        self._events: EventStream | None = None
        self._status: int = 0
        self._reply_headers: Headers = ()
        self._parts: list[bytes] = []
        """What is held back: of a stream before its first content, or of an answer that is not complete."""
        self._size: int = 0
        self._phase: Phase = Phase.CONNECT
        self._since: int = 0
        self._over: bool = False
        self._renewed: bool = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.committed: bool = False
        self.complete: bool = False
        self.crash: Exception | None = None
        self.sent_at: int = 0
        self.first_token_at: int = 0

    def begin(self) -> bool:
        """Send the request on an idle connection. Return False where there is none: then `connect` must do it."""
        exchange = self._exchange
        if not self._data:
            try:
                call = self._engine.call(exchange.request, self._model)
            except RequestError as error:
                self._fail(error.failure)
                return True
            lines = exchange.trace
            if self._engine.request_ids:
                lines = b"x-request-id: %b\r\n%b" % (exchange.id, lines)
            self._data = self._upstream.encode(call, lines)
        connection = None if self._renewed else self._upstream.take(self._way.loop.time())
        if connection is None:
            return False
        self._send(connection)
        return True

    async def connect(self) -> None:
        """Make a connection and send the request on it. Cancelled, it leaves nothing behind."""
        exchange = self._exchange
        left = exchange.deadline - exchange.timeline.mark(CONNECT)
        try:
            connection = await self._upstream.connect(max(0.001, min(self._clocks.connect, left / SECOND)))
        except ConnectError as error:
            self._fail(error.failure)
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        exchange = self._exchange
        self._connection = connection
        self._way.source = connection
        now = self.sent_at = exchange.timeline.mark(SEND)
        connection.send(self._data, self)
        if connection.flushed:
            now = exchange.timeline.mark(FIRST_BYTE)
            self._enter(Phase.FIRST_BYTE, now)
        else:
            self._enter(Phase.SEND, now)

    @property
    def stale(self) -> bool:
        """The engine had dropped the idle connection before it saw the request: that was no attempt."""
        return self.failure is not None and self.failure.kind is Kind.RESET and self._unheard

    @property
    def _unheard(self) -> bool:
        connection = self._connection
        return connection is not None and connection.reused and not connection.answered

    def renew(self) -> None:
        """Be ready to be sent once more, on a new connection."""
        self.failure = self._connection = None
        self._over = False
        self._renewed = True

    @property
    def result(self) -> str:
        """The metrics' word for how it ended: ok, cancelled, or the kind of failure."""
        if self.failure is not None:
            return self.failure.kind.value
        return "ok" if self.complete else "cancelled"

    @property
    def tokens(self) -> Usage:
        """What the engine counted; where it had no chance to, one token for each piece of content that came."""
        if self.usage is not None:
            return self.usage
        return Usage(output=self._decoder.content if self._decoder is not None else 0)

    def drop(self) -> None:
        """Give the attempt up: close its connection, which tells the engine, and tell nobody else."""
        self._listener = None
        self._let_go()

    # clocks

    def _enter(self, phase: Phase, now: int) -> None:
        """A phase begins, and its clock."""
        self._phase = phase
        self._since = now
        connection = self._connection
        if connection is not None:
            connection.wake(self, self._clocks.due(phase, now, self._streams, self._exchange.deadline))

    def ring(self) -> None:
        """A clock may have run out."""
        now = perf_counter_ns()
        connection, deadline = self._connection, self._exchange.deadline
        if connection is not None and self._phase is Phase.STREAM and connection.paused:
            # A client that takes nothing has a clock of its own, at the front door.
            self._since = now
        due = self._clocks.due(self._phase, self._since, self._streams, deadline)
        if now < due:
            if connection is not None:
                connection.wake(self, due)
        elif now >= deadline:
            late = Failure(Kind.TIMEOUT, "the request took longer than its total limit", phase=Phase.TOTAL)
            self.on_lost(late)
        else:
            self.on_lost(Failure(Kind.TIMEOUT, LATE[self._phase], phase=self._phase))

    # gateway.wire.upstream.Sink

    def on_sent(self) -> None:
        if self._phase is Phase.SEND:
            self._enter(Phase.FIRST_BYTE, self._exchange.timeline.mark(FIRST_BYTE))

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._reply_headers = headers
        self._phase = Phase.FIRST_TOKEN
        self._data = b""
        engine = self._engine
        if status != 200 or not _is_stream(headers, engine.stream_types):
            self._exchange.timeline.mark(STREAM)
            return
        self._exchange.timeline.mark(FIRST_TOKEN)
        request = self._exchange.request
        if self._gathers:
            request = msgspec.structs.replace(request, stream=True, include_usage=True)
        decoder = self._decoder = engine.decoder(request, self._model)
        if isinstance(decoder, EventStream) and not self._gathers:
            self._events = decoder

    def on_chunk(self, framed: bytes, start: int, end: int) -> None:
        events = self._events
        size = self._size + end - start
        if events is None or not self.committed or size > MAX_STREAM:
            self.on_body(framed[start:end])
            return
        out = events.more(framed, start, end)
        if out is None:
            self.on_body(framed[start:end])
            return
        now = perf_counter_ns()
        self._token_gap.observe((now - self._since) / SECOND)
        self._since = now
        self._size = size
        if out is framed:
            self._way.write_chunk(framed, start, end)
        else:
            self._way.write(out)

    def on_body(self, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            self._collect(data)
            return
        self._size += len(data)
        if self._size > MAX_STREAM:
            self._fail(Failure(Kind.GARBLED, "the engine's answer has no end"))
            return
        before = decoder.content
        out = decoder.feed(data)
        if decoder.failure is not None:
            self._fail(decoder.failure, out)
            return
        if decoder.content != before:
            now = perf_counter_ns()
            if before:
                self._token_gap.observe((now - self._since) / SECOND)
            self._since = now
        if self.committed:
            self._way.write(out)
        elif self._gathers:
            self._parts.append(out)
        elif decoder.content or decoder.finished:
            self._commit(out)
        elif self._size > MAX_HELD:
            self._fail(Failure(Kind.GARBLED, "the engine sent much and said nothing"))
        elif out:
            self._parts.append(out)

    def on_end(self) -> None:
        if self._over:
            return
        decoder = self._decoder
        try:
            if decoder is not None:
                out = decoder.close()
                if decoder.failure is not None:
                    self._fail(decoder.failure, out)
                    return
                self._finish(decoder, out)
            if not self.complete:
                self._answer()
        except Exception as error:  # noqa: BLE001 (an adapter's fault must not leave its request without an end)
            self.crash = error
        self._end()

    def on_lost(self, failure: Failure) -> None:
        decoder = self._decoder
        if decoder is not None and decoder.finished and not self._over:
            # Everything that matters has arrived; only the transfer coding's end is missing.
            log.debug("%s: a complete stream came without its last chunk", self._upstream.url)
            self.on_end()
        else:
            self._fail(failure)

    # the answer's way to the client

    def _collect(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > (MAX_REPLY if self._status == 200 else MAX_ERROR):
            self._fail(Failure(Kind.GARBLED, "the engine's answer is too large"))
        else:
            self._parts.append(data)

    def _commit(self, out: bytes) -> None:
        """The first content is here: from now on the answer is this backend's."""
        exchange = self._exchange
        now = self.first_token_at = exchange.timeline.mark(STREAM)
        self._enter(Phase.STREAM, now)
        self.committed = True
        exchange.has_content()
        headers = exchange.surface.stream_headers if self._streams else _content_type(self._reply_headers)
        exchange.start([*headers, *self._headers])
        self._parts.append(out)
        self._way.write(b"".join(self._parts))
        self._parts = []

    def _finish(self, decoder: StreamDecoder, out: bytes) -> None:
        self.usage = decoder.usage
        if self._gathers:
            self._parts.append(out)
            return
        if not self.committed:
            self._commit(b"")
        self._exchange.timeline.mark(FINISH)
        self._way.write(out)
        self._way.finish()
        self.complete = True

    def _answer(self) -> None:
        """A whole reply is in: hand it on, or say what is wrong with it."""
        self._exchange.timeline.mark(FINISH)
        body = b"".join(self._parts)
        if self._status != 200:
            found: Reply | Failure = self._engine.failure(self._status, self._reply_headers, body)
        else:
            found = self._reply(body)
        if isinstance(found, Failure):
            self.failure = dataclasses.replace(found, phase=Phase.FIRST_TOKEN)
            return
        exchange = self._exchange
        self.usage = found.usage
        exchange.has_content()
        kind = exchange.surface.stream_headers if self._streams else ((b"content-type", found.content_type),)
        exchange.reply(200, [*kind, *self._headers], found.body)
        self.complete = True

    def _reply(self, body: bytes) -> Reply | Failure:
        request = self._exchange.request
        if self._decoder is not None:
            try:
                body = gathered.whole(request.operation, body)
            except (ValueError, LookupError, TypeError) as error:
                return Failure(Kind.GARBLED, "the engine's stream makes no whole answer", detail=str(error))
        return self._engine.reply(request, self._model, self._reply_headers, body)

    # the end

    def _fail(self, failure: Failure, out: bytes = b"") -> None:
        if self._over:
            return
        self.failure = failure if failure.phase else dataclasses.replace(failure, phase=self._phase)
        if self._decoder is not None:
            self.usage = self._decoder.usage
        if self.committed:
            self._way.write(out)
        if self._connection is not None:
            self._connection.close()
        self._end()

    def _end(self) -> None:
        """It is over: let go of the connection, and say so."""
        listener = self._listener
        self._over = True
        if not self._unheard:
            self._data = b""
        self._let_go()
        if listener is not None:
            listener.attempt_over(self)

    def _let_go(self) -> None:
        """Only a connection whose exchange has ended is kept; any other is closed, and the engine sees that."""
        self._over = True
        self._way.source = None
        connection = self._connection
        if connection is not None:
            connection.wake(None, 0)
            self._upstream.give_back(connection, self._way.loop.time())


def _content_type(headers: Headers) -> Headers:
    """The header that says what an engine's answer is."""
    return [header for header in headers if header[0] == b"content-type"][:1]


def _is_stream(headers: Headers, types: tuple[bytes, ...]) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value.startswith(types)
    return False

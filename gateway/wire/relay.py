"""One attempt: sends a request to one backend and relays the answer to the client.

Rules:
- The client receives nothing of a stream before its first content. Until then a failed request can be tried at
  another backend; from then on the attempt is committed.
- A failure of a committed attempt ends the stream. The listener reports it to the client, and the stream is never ended
  as if it were complete.
- Each phase has a time limit (`gateway.wire.clocks`). Comments and empty events do not count as progress; the bytes of
  an event that has not ended do.
- A whole answer that is gathered from the engine's stream has the stream's limit between two pieces of content.
- What is too large by the gateway's own measure (`gateway.wire.sizes`) is no verdict on the engine.
- A stream is recognised by its first bytes where its content type does not tell.
- Only `connect` awaits. Bytes move from the engine's socket to the client's in one synchronous pass, without a task or
  a future. If the client reads slowly, reading from the engine is paused.
- Where two attempts of a request run beside each other, one of them passes something on only after the other was
  dropped (`Contest`).
- However the attempt ends, its connection returns to the pool only after a complete answer.

The file is long because an attempt is one state machine, whose phases are read together.
"""

from __future__ import annotations

import dataclasses
import logging
from time import perf_counter_ns, time, time_ns
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
    Request,
    RequestError,
    StreamDecoder,
    Usage,
)
from backends.dialect import gathered
from backends.dialect.errors import UNREADABLE, reason_of, unreadable
from backends.dialect.parameters import Parameters
from backends.dialect.stream import EventStream
from backends.framing import sse
from backends.surfaces.codecs import settled
from backends.surfaces.openai import UNBUFFERED
from backends.surfaces.translation import Translation
from gateway.request import Exchange, WayBack
from gateway.telemetry.cells import Histogram
from gateway.telemetry.timeline import CONNECT, FINISH, FIRST_BYTE, FIRST_TOKEN, SEND, STREAM, Timeline
from gateway.telemetry.trace import Leg
from gateway.wire.answer import Held, content_type, is_stream, may_be_stream
from gateway.wire.clocks import LATE, SECOND, Clocks
from gateway.wire.connection import Connection, Sink
from gateway.wire.destination import Destination, TargetBackend
from gateway.wire.sizes import Sizes
from gateway.wire.upstream import ConnectError, Upstream

log = logging.getLogger("gateway.relay")

MAX_ERROR: Final = 1 << 20
"""Most bytes of an error answer that are read. A longer one is judged by its status and its beginning."""


class Listener(Protocol):
    """The receiver of an attempt's first content and of its end."""

    def answer_began(self) -> None: ...
    def attempt_over(self, attempt: Attempt) -> None: ...


class Contest(Protocol):
    """The choice between two attempts of one request that run beside each other."""

    def won(self, attempt: Attempt) -> None:
        """Drop the other attempt, because this one answers."""


class Attempt(Sink):
    """One attempt to serve one request with one backend.

    `begin` sends the request if there is an idle connection; otherwise `connect` opens one first. The listener is
    called once when the attempt is over. Then `complete` is true if the client has the whole answer; otherwise
    `failure` says why not, and is None if the attempt was dropped. `crash` is an exception that an engine's adapter
    raised, which is a bug. `committed` is true once the client has received content. `sent_at` and `first_token_at` are
    nanoseconds of the timeline's clock, 0 if that did not happen. `sent` are the bytes that went to the engine,
    `received` those of the answer's body that came from it. `request` is the client's, as the model has it.
    """

    __slots__ = (
        "_backend",
        "_clocks",
        "_connection",
        "_data",
        "_decoder",
        "_engine",
        "_events",
        "_exchange",
        "_explained",
        "_headers",
        "_heard",
        "_held",
        "_listener",
        "_model",
        "_most",
        "_over",
        "_parameters",
        "_phase",
        "_renewed",
        "_reply_headers",
        "_since",
        "_sizes",
        "_status",
        "_streams",
        "_timeline",
        "_token_gap",
        "_translation",
        "_unlabelled",
        "_upstream",
        "_way",
        "_whole",
        "committed",
        "complete",
        "contest",
        "crash",
        "failure",
        "first_token_at",
        "gathers",
        "leg",
        "received",
        "request",
        "sent",
        "sent_at",
        "translated",
        "usage",
    )

    def __init__(self, exchange: Exchange, target: Destination, listener: Listener, headers: Headers) -> None:
        """Prepare to send the request to `target`; `headers` are added to the client's answer."""
        backend = target.backend
        self.request: Request = exchange.request
        assert backend.upstream is not None
        self._exchange: Exchange = exchange
        self._timeline: Timeline = exchange.timeline
        self.contest: Contest | None = None
        """Who is asked before anything of the answer is passed on; None while no other attempt runs beside this one."""
        self._way: WayBack = exchange.way
        self._upstream: Upstream = backend.upstream
        self._engine: Engine = backend.engine
        self._translation: Translation | None = None
        self._backend: TargetBackend = backend
        self._model: str = target.model
        self._clocks: Clocks = target.clocks
        self._sizes: Sizes = exchange.plan.sizes
        self._most: int = self._sizes.reply
        self._token_gap: Histogram = target.metrics.token_gap
        self._listener: Listener | None = listener
        self._headers: Headers = headers
        self._parameters: Parameters | None = target.parameters
        self._streams: bool = self.request.stream
        self._whole: bool = False
        """Whether the engine was asked for a whole answer, whose time limits apply then, whatever the client wants."""
        self.gathers: bool = not (self._streams or self.request.operation is Operation.SPEECH)
        """Whether a stream from the engine is assembled into one JSON answer, because the client did not ask for a
        stream. Never for speech, whose audio may be streamed in any case."""
        self._data: bytes = b""
        """The whole request as bytes, until the engine begins to answer it."""
        self._connection: Connection | None = None
        self._decoder: StreamDecoder | None = None
        self._events: EventStream | None = None
        self._status: int = 0
        self._reply_headers: Headers = ()
        self._unlabelled: bool = False
        """Whether the first bytes are still to tell if the answer is a stream."""
        self._held: Held = Held()
        """Data that is held back: of a stream before its first content, or of an answer that is sent as a whole."""
        self._phase: Phase = Phase.CONNECT
        self._since = self._heard = 0  # `_heard`: when bytes of an event came last that did not end it
        self._over = self._explained = self._renewed = False
        """Whether it is over; whether the engine was asked for the reason of the failure; whether it was sent again."""
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.committed = self.complete = False
        self.crash: Exception | None = None
        self.sent_at = self.first_token_at = self.sent = self.received = 0
        self.leg: Leg | None = None
        """What is noted of it for its request's trace; None where that is not recorded."""
        self.translated: str = ""
        """Why the request or its answer could not be passed on as it was; empty where it could."""

    def begin(self) -> bool:
        """Send the request on an idle connection. Return False if there is none, so that `connect` has to be called."""
        exchange = self._exchange
        if not self._data:
            try:
                native = self._backend.native.of(exchange.request)
                self.request, translation = settled(
                    exchange.request, self._engine, native, self._parameters, time_ns
                )
                self._translation = translation
                if translation is None:
                    call = self._engine.call(self.request, self._model)
                else:
                    translation.writer = exchange.writer
                    call = translation.call(self._engine, self._model)
            except RequestError as error:
                self._fail(error.failure)
                return True
            except UNREADABLE as error:
                self._fail(unreadable(error))
                return True
            self._whole = call.whole
            if translation is not None or call.native or call.whole:
                self.translated = (
                    "as_chat" if translation is not None else "native_api" if call.native else "whole"
                )
            dropped = call.dropped if translation is None else (*translation.dropped, *call.dropped)
            if dropped:
                self._headers = (*self._headers, (b"x-gateway-dropped", ", ".join(dropped).encode()))
            lines = self._trace_lines()
            if self._engine.request_ids:
                lines = b"x-request-id: %b\r\n%b" % (exchange.id, lines)
            self._data = self._upstream.encode(call, lines)
        connection = self._idle()
        if connection is None:
            return False
        self._send(connection)
        return True

    def _trace_lines(self) -> bytes:
        """Return the header lines that tell the engine which trace the request belongs to."""
        exchange = self._exchange
        traced = exchange.traced
        if traced is None or not traced.is_sampled:
            return exchange.trace
        leg = self.leg = traced.begin_leg()
        leg.engine, leg.url, leg.model = self._engine.name, self._upstream.url, self._model
        leg.own = None if self._timeline is exchange.timeline else self._timeline.journal
        return leg.lines

    async def connect(self) -> None:
        """Open a connection and send the request on it. Cancelling it leaves no connection open."""
        exchange = self._exchange
        left = exchange.deadline - self._timeline.mark(CONNECT)
        try:
            connection = await self._opened(max(0.001, min(self._clocks.connect, left / SECOND)))
        except ConnectError as error:
            failure = error.failure
            if self._renewed:
                # It was sent before, so it may be what the engine died of.
                failure = Failure(Kind.RESET, "the engine closed the connection and is gone", Phase.CONNECT)
            self._fail(failure)
        else:
            self._send(connection)

    def _idle(self) -> Connection | None:
        """Return an idle connection that may be used; None where a new one is to be opened."""
        return None if self._renewed else self._upstream.take()

    async def _opened(self, seconds: float) -> Connection:
        """Return a new connection. Raises ConnectError, also if it takes longer than that."""
        return await self._upstream.connect(seconds)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        if self.contest is None:
            self._way.source = connection
            self._exchange.attempt = self
        now = self.sent_at = self._timeline.mark(SEND)
        self.sent += len(self._data)
        connection.send(self._data, self)
        if connection.flushed:
            now = self._timeline.mark(FIRST_BYTE)
            self._enter(Phase.FIRST_BYTE, now)
        else:
            self._enter(Phase.SEND, now)

    @property
    def stale(self) -> bool:
        """Tell whether the engine closed the reused connection before it answered anything.

        Then the engine has most likely not received the request, and it is sent again without counting an attempt.
        """
        return self.failure is not None and self.failure.kind is Kind.RESET and self._unheard

    @property
    def _said(self) -> Request:
        """Return the request as the engine's adapter gets it: said in another API, if it is translated."""
        return self.request if self._translation is None else self._translation.said

    @property
    def _unheard(self) -> bool:
        """Tell whether the connection was reused and nothing has been received on it since."""
        connection = self._connection
        return connection is not None and connection.reused and not connection.answered

    @property
    def unexplained(self) -> bool:
        """Tell whether the engine ended a stream before its first content, and may be asked why."""
        failure, decoder = self.failure, self._decoder
        if failure is None or decoder is None or self._explained:
            return False
        if decoder.content or not self._streams or self.committed:
            return False
        return failure.unexplained or failure.kind is Kind.RESET

    def explain(self, found: Failure | None) -> None:
        """Take the reason that the engine gave when it was asked; None if it gave none."""
        self._explained = True
        if found is not None:
            self.failure = found

    def renew(self) -> None:
        """Reset the attempt, so that the request is sent again on a new connection."""
        self.failure = self._connection = None
        self._over = False
        self._renewed = True

    @property
    def result(self) -> str:
        """Return the label value for the metrics: ok, cancelled, or the kind of failure."""
        if self.failure is not None:
            return self.failure.kind.value
        return "ok" if self.complete else "cancelled"

    @property
    def status(self) -> int:
        """Return the status of the engine's answer, 0 if there was none."""
        return self._status

    @property
    def tokens(self) -> Usage:
        """Return the tokens that the engine reported; if it reported none, count each piece of content as one token."""
        if self.usage is not None:
            return self.usage
        return Usage(output=self._decoder.content if self._decoder is not None else 0)

    @property
    def silent(self) -> bool:
        """Whether nothing of an answer has come: neither content of a stream, nor the head of another answer."""
        decoder = self._decoder
        return not self.committed and (not self._status if decoder is None else not decoder.content)

    def stand_beside(self, contest: Contest) -> None:
        """Run beside another attempt, whose hops are those of the request, until `contest` decides between the two."""
        self.contest = contest
        self._timeline = Timeline(perf_counter_ns())
        if self._exchange.timeline.journal is not None:
            self._timeline.keep_journal()

    def lead(self, listener: Listener, headers: Headers = ()) -> None:
        """Go on alone, after another attempt ran beside this one; `headers` are added to the client's answer."""
        self.contest = None
        self._listener = listener
        self._headers = (*self._headers, *headers)
        if self.leg is not None:
            self.leg.led = perf_counter_ns()
        self._timeline = self._exchange.timeline
        self._way.source = self._connection
        self._exchange.attempt = self

    def drop(self) -> None:
        """Abandon the attempt without calling the listener. Closing the connection tells the engine to stop."""
        self._listener = None
        if not self._over:
            self._let_go()

    # time limits

    def _enter(self, phase: Phase, now: int) -> None:
        """Begin a phase at `now`, and set the timer to its limit."""
        self._phase = phase
        self._since = now
        connection = self._connection
        if connection is not None:
            connection.wake(self, self._clocks.due(phase, now, self._is_paced, self._exchange.deadline))

    @property
    def _is_paced(self) -> bool:
        """Tell whether the limits of a stream apply to the engine's answer."""
        return self._streams and not self._whole

    def ring(self) -> None:
        """Fail the attempt if the limit of its phase has passed, else set the timer again."""
        now = perf_counter_ns()
        connection, deadline = self._connection, self._exchange.deadline
        if connection is not None and self._phase is Phase.STREAM and connection.paused:
            # The client does not read, so the engine is not to blame. The client's connection has a limit for this.
            self._since = now
        since = max(self._since, self._heard)
        due = self._clocks.due(self._phase, since, self._is_paced, deadline)
        if now < due:
            if connection is not None:
                connection.wake(self, due)
        elif now >= deadline:
            late = Failure(Kind.TIMEOUT, "the request took longer than its total limit", phase=Phase.TOTAL)
            self.on_lost(late)
        else:
            self.on_lost(Failure(Kind.TIMEOUT, LATE[self._phase], phase=self._phase))

    # gateway.wire.connection.Sink

    def on_sent(self) -> None:
        if self._phase is Phase.SEND:
            self._enter(Phase.FIRST_BYTE, self._timeline.mark(FIRST_BYTE))

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._reply_headers = headers
        quota = self._backend.quota
        if quota is not None:
            quota.take(headers, self._way.loop.time())
        self._phase = Phase.FIRST_TOKEN
        self._data = b""
        if status == 200 and is_stream(headers, self._engine.stream_types):
            self._watch()
        else:
            self._unlabelled = status == 200 and may_be_stream(self._said)
            self._timeline.mark(STREAM)

    def _watch(self) -> None:
        """Begin to decode the answer as a stream."""
        now = self._timeline.mark(FIRST_TOKEN)
        if self._whole:
            # It streams although it was not asked to.
            self._whole = False
            self._enter(Phase.FIRST_TOKEN, now)
        request = self._said
        if self.gathers:
            request = msgspec.structs.replace(request, stream=True, include_usage=True)
        decoder = self._engine.decoder(request, self._model)
        if self._translation is not None and not self.gathers:
            decoder = self._translation.decoder(decoder)
        self._decoder = decoder
        decoder.bound(self._sizes.event)
        if self.gathers:
            # The client waits for a whole answer. Until it begins, the limit on its first byte applies.
            self._phase = Phase.FIRST_BYTE
        elif isinstance(decoder, EventStream):
            self._events = decoder

    def on_chunk(self, framed: bytes, start: int, end: int) -> None:
        events = self._events
        size = self.received + end - start
        if events is None or not self.committed or size > self._most:
            self.on_body(framed[start:end])
            return
        out = events.more(framed, start, end)
        if out is None:
            self.on_body(framed[start:end])
            return
        now = perf_counter_ns()
        self._token_gap.observe((now - self._since) / SECOND)
        self._since = now
        self.received = size
        if out is framed:
            self._way.write_chunk(framed, start, end)
        else:
            self._way.write(out)

    def on_body(self, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            self._collect(data)
            return
        self.received += len(data)
        if self.received > self._most:
            self._fail(self._sizes.reply_too_large())
            return
        before = decoder.content
        out = decoder.feed(data)
        failure = decoder.failure
        if failure is not None:
            self._fail(self._sizes.event_too_large() if failure.kind is Kind.LIMIT else failure, out)
            return
        if decoder.content != before:
            self._progressed(before == 0)
        elif decoder.growing:
            self._heard = perf_counter_ns()
        if self.committed:
            self._way.write(out)
        elif not self.gathers and (decoder.content or decoder.finished):
            self._commit(out)
        elif out:
            self._held.add(out)
            if not self.gathers and self._held.size > self._sizes.event:
                self._fail(self._sizes.held_too_large())
        if decoder.enough:
            self._leave()

    def _progressed(self, first: bool) -> None:
        """Take note that content has come: the first of the answer, or more of it."""
        now = perf_counter_ns()
        if first:
            if self.contest is not None:
                self.contest.won(self)
            if self._listener is not None:
                self._listener.answer_began()
            if self.gathers:
                self._enter(Phase.STREAM, now)
        elif self._streams:
            self._token_gap.observe((now - self._since) / SECOND)
        self._since = now

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
        except Exception as error:  # noqa: BLE001 (an adapter's bug must still end its request)
            self.crash = error
        self._end()

    def _leave(self) -> None:
        """End a complete answer whose engine goes on; closing the connection tells it to stop."""
        if self._connection is not None:
            self._connection.close()
        self.on_end()

    def on_lost(self, failure: Failure) -> None:
        decoder = self._decoder
        if decoder is not None and decoder.finished and not self._over:
            # The dialect's own end of the stream has arrived; only the end of the chunked body is missing.
            log.debug("%s: a complete stream came without its last chunk", self._upstream.url)
            self.on_end()
        else:
            self._fail(failure)

    # relaying the answer

    def _collect(self, data: bytes) -> None:
        held = self._held
        if self._unlabelled:
            self.received -= held.size
            data = held.take() + data
            streams = sse.is_stream(data)
            self._unlabelled = streams is None
            if streams:
                self._watch()
                self.on_body(data)
                return
        self.received += len(data)
        held.add(data)
        if self._status != 200:
            if held.size > MAX_ERROR:
                self._fail(self._engine.failure(self._status, self._reply_headers, held.take()))
        elif held.size > self._most:
            self._fail(self._sizes.reply_too_large())

    def _commit(self, out: bytes) -> None:
        """Send the head and everything held back, because the first content has arrived."""
        exchange = self._exchange
        if self.contest is not None:
            self.contest.won(self)
        now = self.first_token_at = self._timeline.mark(STREAM)
        self._enter(Phase.STREAM, now)
        self.committed = True
        exchange.has_content()
        kind = [*content_type(self._reply_headers), *UNBUFFERED]
        headers = exchange.surface.stream_headers if self._streams else kind
        exchange.start([*headers, *self._headers])
        self._way.write(self._held.take() + out)

    def _finish(self, decoder: StreamDecoder, out: bytes) -> None:
        self.usage = decoder.usage
        if self.gathers:
            self._held.add(out)
            return
        if not self.committed:
            self._commit(b"")
        self._timeline.mark(FINISH)
        self._way.write(out)
        self._way.finish()
        self.complete = True

    def _answer(self) -> None:
        """Convert an answer that has arrived completely and send it to the client, or set `failure`."""
        self._timeline.mark(FINISH)
        body = self._held.take()
        found: Reply | Failure
        if self._status != 200:
            found = self._engine.refusal(self._said, self._status, self._reply_headers, body)
        else:
            found = self._reply(body)
        if self._translation is not None and isinstance(found, Reply):
            found = self._translation.reply(found)
        if isinstance(found, Failure):
            self.failure = dataclasses.replace(found, phase=Phase.FIRST_TOKEN)
            return
        exchange = self._exchange
        if self.contest is not None:
            self.contest.won(self)
        self.usage = found.usage
        exchange.has_content()
        kind = exchange.surface.stream_headers if self._streams else ((b"content-type", found.content_type),)
        exchange.reply(200, [*kind, *self._headers], found.body)
        self.complete = True

    def _reply(self, body: bytes) -> Reply | Failure:
        request = self._said
        if self._decoder is not None:
            try:
                body = gathered.whole(request, body, time())
            except (ValueError, LookupError, TypeError) as error:
                return Failure(
                    Kind.GARBLED, "the engine's stream makes no whole answer", facts=reason_of(error)
                )
        return self._engine.reply(request, self._model, self._reply_headers, body)

    # ending the attempt

    def _fail(self, failure: Failure, out: bytes = b"") -> None:
        if self._over:
            return
        self.failure = failure if failure.phase else dataclasses.replace(failure, phase=self._phase)
        if self._decoder is not None:
            self.usage = self._decoder.usage
        if self.committed:
            self._exchange.broken = self._decoder
            self._way.write(out)
        if self._connection is not None:
            self._connection.close()
        self._end()

    def _end(self) -> None:
        """End the attempt: release the connection, then call the listener."""
        listener = self._listener
        self._over = True
        if not self._unheard:
            self._data = b""
        self._let_go()
        if listener is not None:
            listener.attempt_over(self)

    def _let_go(self) -> None:
        """Release the connection. The pool keeps it if its exchange has ended, and closes it otherwise."""
        self._over = True
        if self.contest is None:
            self._way.source = None
        connection = self._connection
        if connection is not None:
            connection.wake(None, 0)
            self._upstream.give_back(connection, self._way.loop.time())

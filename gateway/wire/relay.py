"""One attempt: a request goes to one backend, and its answer to the client.

Rules:
- Until the first content of a stream the client gets nothing (commit late); what failed before may be tried elsewhere.
- After that a failure ends the stream with an error event and a closed connection: never a clean end, never `[DONE]`.
- Each phase has its clock (`gateway.wire.clocks`). Comments and empty events do not count as progress.
- Bytes go from the engine's socket to the client's in one synchronous pass; there is one future per attempt, no task
  and no await per piece. The client's back-pressure pauses the engine's socket.
- The connection goes back to the pool only after a complete answer, whatever ends the attempt.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from typing import Protocol

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
from gateway.errors import GatewayError
from gateway.telemetry.metrics import TargetMetrics
from gateway.wire.clocks import Alarm, Clocks
from gateway.wire.downstream import Downstream
from gateway.wire.upstream import ConnectError, Connection, Upstream

log = logging.getLogger("gateway.relay")

MAX_REPLY = 64 << 20
"""Bytes of an answer that is not a stream."""
MAX_ERROR = 64 << 10
MAX_HELD = 256 << 10
"""Bytes of a stream held back before its first content."""
MAX_STREAM = 256 << 20
"""Bytes of a whole stream. Long answers with log probabilities stay below; an engine beyond it ignores every limit."""

STREAM_HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)


class Stoppable(Protocol):
    """What keeps the client's connection alive until there is content."""

    def stop(self) -> None: ...


class Attempt:
    """One try of one request at one backend. `run` it once; then read what it found."""

    __slots__ = (
        "_alarm",
        "_clocks",
        "_connection",
        "_decoder",
        "_done",
        "_downstream",
        "_engine",
        "_extra",
        "_gathers",
        "_headers",
        "_heartbeat",
        "_held",
        "_loop",
        "_model",
        "_parts",
        "_reply_headers",
        "_request",
        "_served",
        "_size",
        "_status",
        "_upstream",
        "committed",
        "complete",
        "connect_seconds",
        "failure",
        "first_token_at",
        "sent_at",
        "usage",
    )

    def __init__(
        self,
        upstream: Upstream,
        engine: Engine,
        request: Request,
        model: str,
        downstream: Downstream,
        clocks: Clocks,
        served: TargetMetrics,
        headers: Sequence[tuple[bytes, bytes]],
        extra: bytes = b"",
        heartbeat: Stoppable | None = None,
    ) -> None:
        """`model` is the backend's name for it; `headers` go to the client with the answer, the lines in `extra` to the
        engine. `heartbeat` is stopped at the first content."""
        self._upstream = upstream
        self._engine = engine
        self._request = request
        self._model = model
        self._gathers = not (request.stream or request.operation is Operation.SPEECH)
        """A stream that comes is put together to one answer. Sound is neither: it comes in pieces, asked or not."""
        self._downstream = downstream
        self._clocks = clocks
        self._served = served
        self._headers = headers
        self._extra = extra
        self._loop = downstream.loop
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._connection: Connection | None = None
        self._decoder: StreamDecoder | None = None
        self._alarm = Alarm(self._loop, clocks, request.stream, self)
        self._status = 0
        self._reply_headers: Headers = ()
        self._parts: list[bytes] = []
        self._held: list[bytes] = []
        self._size = 0
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self._heartbeat = heartbeat
        self.committed = False
        """The client has received content: what happens from now on it is told in the stream."""
        self.complete = False
        self.connect_seconds = 0.0
        self.sent_at = 0.0
        self.first_token_at = 0.0

    async def run(self) -> Failure | None:
        """Carry the attempt out. None: the client has the whole answer. Otherwise why not; `committed` says whether the
        client had received some of it, and was told.

        Raises CancelledError when the client leaves or the gateway stops; the engine's connection is closed then.
        """
        try:
            await self._exchange()
            if self.failure is None and not self.complete:
                self._answer()
        except (ConnectError, RequestError) as error:
            self.failure = error.failure
        finally:
            self._downstream.attach(None)
            self._alarm.stop()
            if self._connection is not None:
                # Only a connection whose exchange has ended is kept; any other is closed, and the engine sees that.
                self._upstream.give_back(self._connection, self._loop.time())
        return self.failure

    async def _exchange(self) -> None:
        loop = self._loop
        now = loop.time()
        data = self._upstream.encode(self._engine.call(self._request, self._model), self._extra)
        connection = self._upstream.take(now)
        if connection is None:
            connection = await self._connect(now)
        while True:
            self._connection = connection
            self._downstream.attach(connection)
            self.sent_at = loop.time()
            connection.send(data, self)
            self._alarm.enter(Phase.FIRST_BYTE if connection.flushed else Phase.SEND, self.sent_at)
            await self._done
            stale = connection.reused and not connection.answered
            if not (stale and self.failure is not None and self.failure.kind is Kind.RESET):
                return
            # The engine had dropped the idle connection before it saw the request: that was no attempt.
            self.failure = None
            self._done = loop.create_future()
            connection = await self._connect(loop.time())

    async def _connect(self, now: float) -> Connection:
        clocks = self._clocks
        connection = await self._upstream.connect(max(0.001, min(clocks.connect, clocks.deadline - now)))
        self.connect_seconds += self._loop.time() - now
        return connection

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

    # upstream.Sink

    def on_sent(self) -> None:
        if self._alarm.phase is Phase.SEND:
            self._alarm.enter(Phase.FIRST_BYTE, self._loop.time())

    def on_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._reply_headers = headers
        self._alarm.phase = Phase.FIRST_TOKEN
        if status == 200 and _is_stream(headers, self._engine.stream_types):
            request = self._request
            if self._gathers:
                request = msgspec.structs.replace(request, stream=True, include_usage=True)
            self._decoder = self._engine.decoder(request, self._model)

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
            now = self._loop.time()
            if before:
                self._served.token_gap.observe(now - self._alarm.since)
            self._alarm.since = now
        if self.committed:
            self._downstream.write(out)
        elif self._gathers:
            self._parts.append(out)
        elif decoder.content or decoder.finished:
            self._commit(out)
        else:
            self._hold(out)

    def on_end(self) -> None:
        decoder = self._decoder
        if decoder is not None:
            out = decoder.close()
            if decoder.failure is not None:
                self._fail(decoder.failure, out)
                return
            self._finish(decoder, out)
        self._wake()

    def on_lost(self, failure: Failure) -> None:
        decoder = self._decoder
        if decoder is not None and decoder.finished and not self._done.done():
            # Everything that matters has arrived; only the transfer coding's end is missing.
            log.debug("%s: a complete stream came without its last chunk", self._upstream.url)
            self.on_end()
        else:
            self._fail(failure)

    @property
    def stalled(self) -> bool:
        """It is the client who takes nothing, so the engine's silence is not its own."""
        return self._connection is not None and self._connection.paused

    # the answer's way to the client

    def _collect(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > (MAX_REPLY if self._status == 200 else MAX_ERROR):
            self._fail(Failure(Kind.GARBLED, "the engine's answer is too large"))
        else:
            self._parts.append(data)

    def _hold(self, out: bytes) -> None:
        if self._size > MAX_HELD:
            self._fail(Failure(Kind.GARBLED, "the engine sent much and said nothing"))
        elif out:
            self._held.append(out)

    def _commit(self, out: bytes) -> None:
        """The first content is here: from now on the answer is this backend's."""
        self.first_token_at = self._loop.time()
        self._alarm.enter(Phase.STREAM, self.first_token_at)
        self.committed = True
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if not self._downstream.started:
            kind = STREAM_HEADERS if self._request.stream else _content_type(self._reply_headers)
            self._downstream.start(200, [*kind, *self._headers])
        self._downstream.write(b"".join([*self._held, out]))
        self._held.clear()

    def _finish(self, decoder: StreamDecoder, out: bytes) -> None:
        self.usage = decoder.usage
        if self._gathers:
            self._parts.append(out)
            return
        if not self.committed:
            self._commit(b"")
        self._downstream.write(out)
        self._downstream.finish()
        self.complete = True

    def _answer(self) -> None:
        """A whole reply is in: hand it on, or say what is wrong with it."""
        body = b"".join(self._parts)
        if self._status != 200:
            self.failure = self._engine.failure(self._status, self._reply_headers, body)
        else:
            reply = self._reply(body)
            if isinstance(reply, Failure):
                self.failure = reply
            else:
                self._deliver(reply)
        if self.failure is not None:
            self.failure = dataclasses.replace(self.failure, phase=Phase.FIRST_TOKEN)

    def _reply(self, body: bytes) -> Reply | Failure:
        if self._decoder is not None:
            try:
                body = gathered.whole(self._request.operation, body)
            except (ValueError, LookupError, TypeError) as error:
                return Failure(Kind.GARBLED, "the engine's stream makes no whole answer", detail=str(error))
        return self._engine.reply(self._request, self._model, self._reply_headers, body)

    def _deliver(self, reply: Reply) -> None:
        """The whole answer goes out, as a stream's events where a stream was asked for."""
        self.usage = reply.usage
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._downstream.started:
            self._downstream.write(reply.body)
            self._downstream.finish()
        else:
            kind = STREAM_HEADERS if self._request.stream else ((b"content-type", reply.content_type),)
            self._downstream.reply(200, [*kind, *self._headers], reply.body)
        self.complete = True

    def _fail(self, failure: Failure, out: bytes = b"") -> None:
        if self._done.done():
            return
        self.failure = failure if failure.phase else dataclasses.replace(failure, phase=self._alarm.phase)
        if self._decoder is not None:
            self.usage = self._decoder.usage
        if self.committed:
            self._downstream.write(out)
            self._downstream.write(GatewayError.of(self.failure).event(self._request.operation))
            self._downstream.abort()
        if self._connection is not None:
            self._connection.close()
        self._wake()

    def _wake(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


def _content_type(headers: Headers) -> Headers:
    """The header that says what an engine's answer is."""
    return [header for header in headers if header[0] == b"content-type"][:1]


def _is_stream(headers: Headers, types: tuple[bytes, ...]) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value.startswith(types)
    return False

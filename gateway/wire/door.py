"""The front door: a client's connection while it carries plain requests, and the channel for their answers.

Rules:
- A plain request, as `gateway.wire.heads` defines it, whose head arrives in one read needs no task, no ASGI scope and
  no further parser. Anything else is handed with its bytes to the full protocol (`gateway.wire.server`), which returns
  the connection when it is idle. So only one refusal is written here: for a body that does not arrive in time.
- A head is parsed strictly once. If the next one on the connection differs only in the length of the body, it is
  recognised, and the results of parsing and checking it are reused.
- Requests are answered one at a time. Bytes of later ones are read but not parsed until the answer has been written and
  the client's socket has room. If there are too many, reading pauses, and the socket's state is checked regularly for a
  client that disconnected.
- A request is counted as soon as its head is complete, even if the client leaves while sending the body.
- The client must go on reading what was written (`gateway.wire.stall`), on a connection that is being closed too.
- When descriptors run out, connections beyond the limit are closed, else those that are idle, the longest idle first.
- A connection has one timer. It is set again only if it would fire too late, and re-armed if it fires too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Final

from backends.base import Headers
from gateway.errors import CLIENT_GONE, GatewayError, Own
from gateway.request import Exchange, WayBack
from gateway.telemetry.timeline import RECEIVE
from gateway.wire.context import ServerContext
from gateway.wire.heads import Head, read_head
from gateway.wire.http1 import CLOSE, LAST_CHUNK, chunk, has_left, head, peer_of
from gateway.wire.limits import AHEAD, GLANCE, LONGEST_HEAD
from gateway.wire.linger import linger
from gateway.wire.room import NEVER, is_crowded, make_room
from gateway.wire.stall import Stall
from gateway.wire.tls import truncate

IDLE: Final = 0
"""No request is being read or answered."""
READING: Final = 1
"""The head of a request has been read, its body not completely."""
ANSWERING: Final = 2
"""A request has been read completely, its answer is not complete."""
GONE: Final = 3
"""The connection is closed, or the full protocol owns it."""

LINE_ENDS: Final = frozenset(b"\r\n")
EARLY: Final = 0.001
"""Seconds by which the event loop's timers may fire too early."""


class Door(WayBack):
    """One client connection, used as an `asyncio.Protocol`, and the channel for the answer to its current request."""

    __slots__ = (
        "_answered",
        "_body",
        "_context",
        "_due",
        "_glance",
        "_is_closing",
        "_keep_alive",
        "_last",
        "_later",
        "_left",
        "_phase",
        "_send",
        "_since",
        "_stall",
        "_timer",
        "_timer_due",
        "transport",
    )

    def __init__(self, context: ServerContext, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._context: ServerContext = context
        self._phase: int = IDLE
        self._last: Head | None = None
        """The head of the last request."""
        self._body: list[bytes] = []
        self._left: int = 0
        """Bytes of the body that have not arrived yet."""
        self._later: bytes = b""
        """Bytes that arrived after the current request."""
        self._answered: bool = False
        self._keep_alive: bool = True
        self._since: float = NEVER
        """When the connection began to be idle, unless it has never been."""
        self._due: float = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float = NEVER
        self._stall: Stall | None = None
        self._glance: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self._send: Callable[[bytes], None]
        self._is_closing: Callable[[], bool]

    @property
    def idle_since(self) -> float:
        """Return since when the connection is idle, `NEVER` if it is not."""
        return self._since if self._phase == IDLE and self._stall is None else NEVER

    @property
    def ahead(self) -> int:
        """Return how many bytes have been read after the current request."""
        return len(self._later)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._send = transport.write
        self._is_closing = transport.is_closing
        context = self._context
        connections = context.state.connections
        connections.add(self)
        crowded = is_crowded(transport)
        if len(connections) <= context.limits.connections:
            if crowded:
                make_room(connections)
            self._rest(context.limits.header_seconds)
        elif crowded:
            self._close()  # No descriptor can be spared for telling it why.
        else:
            self._hand_over(b"", GatewayError(Own.NO_BACKEND, "too many connections", code="overloaded"))

    def connection_lost(self, exc: Exception | None) -> None:
        stall = self._stall
        outcome = CLIENT_GONE if stall is None else stall.lost(exc)
        self._part()
        self.lost(outcome)

    def _part(self) -> None:
        """Give the connection up: it is closed, or somebody else closes it."""
        self._phase = GONE
        self._due = NEVER
        for waiting in (self._timer, self._glance, self._stall):
            if waiting is not None:
                waiting.cancel()
        self._timer = self._stall = self._glance = None
        self._later = b""
        self._context.state.connections.discard(self)

    def eof_received(self) -> bool:
        """Close the transport: a client that half-closes its connection counts as one that left."""
        return False

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == IDLE and self._stall is None:
            self._begin(data)
        elif phase == IDLE:
            self._phase = ANSWERING
            self._later = data
        elif phase == READING:
            self._read_on(data)
        elif phase == ANSWERING:
            self._later += data
            if len(self._later) > AHEAD and self._glance is None:
                self.transport.pause_reading()
                self._glance = self.loop.call_later(GLANCE, self._look)

    def pause_writing(self) -> None:
        self._expire()
        if self.source is not None:
            self.source.pause()

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.transport.is_closing():
            self._expire()
        elif self._phase == ANSWERING and self.exchange is None and self._later:
            self.loop.call_soon(self._go_on)
        if self.source is not None:
            self.source.resume()

    def shutdown(self) -> None:
        """Close the connection after the current request, because the server is stopping."""
        self._keep_alive = False
        if self._phase == IDLE:
            self._close()

    # reading

    def _begin(self, data: bytes) -> None:
        began = perf_counter_ns()
        context = self._context
        last = self._last
        end = 0 if last is None else last.repeated(data, context.limits.body)
        found = last if end else None
        if found is None:
            if data[0] in LINE_ENDS:
                # RFC 9112, section 2.2: a client may send empty lines before a request.
                data = data.lstrip(b"\r\n")
                if not data:
                    return
            end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) + 4
            found = self._last = read_head(data, end, context.hot, context.limits) if end > 3 else None
            if found is None:
                self._hand_over(data)
                return
        missing = end + found.length - len(data)
        self._answered = self.started = False
        exchange = found.handler.open(self, found.headers, began)
        try:
            found.known = found.handler.admit(exchange, found.known)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            if missing > 0:
                # Refused before the body has arrived: the full protocol knows what to do with the rest of the body.
                exchange.withdraw()
                self._hand_over(data)
                return
            self._take(found, data[end + found.length :])
            exchange.end(error)
            return
        if missing <= 0:
            self._take(found, data[end + found.length :])
            found.handler.accept(exchange, data[end : end + found.length])
            return
        exchange.timeline.mark(RECEIVE)
        self._phase = READING
        self._left = missing
        self._body = [data[end:]]
        self._wake(self.loop.time() + self._context.limits.body_seconds)

    def _read_on(self, data: bytes) -> None:
        left, found = self._left, self._last
        assert found is not None and self.exchange is not None
        if len(data) < left:
            self._left = left - len(data)
            self._body.append(data)
            return
        self._body.append(data[:left])
        body = b"".join(self._body)
        self._body = []
        self._take(found, data[left:])
        found.handler.accept(self.exchange, body)

    def _take(self, found: Head, rest: bytes) -> None:
        """Begin to answer a request that has been read completely; `rest` are the bytes that follow it."""
        self._phase = ANSWERING
        self._due = NEVER
        self._later = rest
        self._keep_alive = self._keep_alive and found.keep_alive

    def _hand_over(self, data: bytes, refusal: GatewayError | None = None) -> None:
        """Hand the connection and the bytes read so far to the full protocol: the request is not plain, or refused."""
        self._phase = GONE
        self._context.state.connections.discard(self)
        self._last = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_due = NEVER
        full = self._context.full()
        full.door, full.refusal = self, refusal
        transport = self.transport
        transport.set_protocol(full)  # type: ignore[arg-type]  # it has the methods, but not the base class
        full.connection_made(transport)
        if data:
            full.data_received(data)

    def take_back(self) -> None:
        """Own the connection again, because it is idle after the full protocol has answered."""
        self._phase = IDLE
        self._context.state.connections.add(self)
        self.transport.set_protocol(self)  # type: ignore[arg-type]  # as above
        self._rest(self._context.keep_alive)

    def _look(self) -> None:
        """Check whether the client is still connected. While reading is paused, no event tells that it has left."""
        self._glance = None
        if self._phase != ANSWERING or len(self._later) <= AHEAD:
            return
        if has_left(self.transport):
            self.transport.abort()
        else:
            self._glance = self.loop.call_later(GLANCE, self._look)

    # gateway.request.WayBack

    def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._put(self._head(status, headers, b"transfer-encoding: chunked\r\n"))

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        date = b"date: " + self._context.state.default_headers[0][1] + b"\r\n"
        return head(status, date, headers, framing) + (b"\r\n" if self._keep_alive else CLOSE)

    def _put(self, data: bytes) -> None:
        if not self.gone and not self._is_closing():
            self._send(data)

    def write(self, data: bytes) -> None:
        if data:
            self._put(chunk(data))

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        # The most frequent call, so nothing more is checked: transports discard writes between a reset and `gone`.
        if not self.gone:
            self._send(framed)

    def finish(self) -> None:
        self._answered = True
        self._put(LAST_CHUNK)

    def abort(self) -> None:
        truncate(self.transport)
        self._keep_alive, self._answered = False, True

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self._answered = True
        self._put(self._head(status, headers, b"content-length: %d\r\n" % len(body)) + body)

    def client(self, headers: Mapping[bytes, bytes]) -> str:
        return self._context.limits.proxies.client(peer_of(self.transport), headers)

    def keep(self, exchange: Exchange) -> bool:
        if self._stall is None or self.gone:
            return False
        self._stall.keep(exchange)
        return True

    def release(self) -> None:
        if self._phase == GONE:
            return
        if not (self._answered and self._keep_alive):
            self._close()
        elif self._later:
            # In the next turn of the loop, so that many pipelined requests do not nest. With a full socket, later.
            if self._stall is None:
                self.loop.call_soon(self._go_on)
        else:
            self._phase = IDLE
            self._rest(self._context.keep_alive)

    def _go_on(self) -> None:
        """Begin the next request, whose first bytes have been read already."""
        if self._phase != ANSWERING or self.exchange is not None:
            return
        if not self._keep_alive:  # the server has begun to stop since the last answer
            self._close()
            return
        self._phase = IDLE
        later, self._later = self._later, b""
        if self._glance is not None:
            self._glance.cancel()
            self._glance = None
            self.transport.resume_reading()
        self._begin(later)

    def _close(self) -> None:
        if self._phase == READING or self._glance is not None:
            # Something is unread, or still to come.
            self._part()
            linger(self.transport, self._context.state.connections)
        else:
            self._phase = GONE
            self.transport.close()
            self._expire()

    def _expire(self) -> None:
        """Start the time limit within which the client must read what was written, unless it is running."""
        if self._stall is None:
            self._stall = Stall(self.loop, self.transport, self._context.limits.write_seconds)

    # the timer

    def _rest(self, seconds: float) -> None:
        """Wait for the next request, for so many seconds."""
        now = self._since = self.loop.time()
        self._wake(now + seconds)

    def _wake(self, due: float) -> None:
        """Call `_ring` at `due`, a time of the event loop, instead of at the time set before."""
        self._due = due
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self.loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_due = NEVER
        if self._due == NEVER:
            return
        if self.loop.time() < self._due - EARLY:
            self._wake(self._due)
        elif self._phase == IDLE:
            self._close()
        elif self._phase == READING and self.exchange is not None:
            self._keep_alive = False
            self.exchange.end(GatewayError(Own.SLOW_CLIENT, "the request's body did not arrive in time"))

"""The front door: a client's connection for as long as everything on it is plain, and the way back for its requests.

Rules:
- Plain is: one read holds a whole head; POST to a hot path by HTTP/1.1; exactly one Host, one Content-Length, no header
  twice; no transfer coding, no expectation, no upgrade; everything within the limits. Such a request needs no task, no
  ASGI scope and no further parser. Anything else is handed, with its bytes, to the full protocol
  (`gateway.wire.server`), which gives the connection back when it is idle. So no refusal is written here but one: a
  body that does not come in time.
- Each head is parsed by a strict parser once. A head that is the same as the last one on its connection but for the
  length of the body, as clients send them all day, is recognised, and what was found out about it still holds.
- One request at a time is answered. What comes behind it waits, read but not parsed, until the answer is out and the
  client's socket has room. Too much of it pauses the socket; then a client that leaves is noticed by looking.
- A request is counted from its head on: a client that leaves within its body is a client that left.
- What was written must be taken in time, on a connection that is being closed too.
- One timer per connection: it is set anew only where it would fire too late, and looks again where it fired too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Final, Protocol

from backends.base import Headers
from gateway.errors import GatewayError, Own
from gateway.request import WayBack
from gateway.telemetry.timeline import RECEIVE
from gateway.wire.heads import Handler, Head, read_head
from gateway.wire.http1 import CLOSE, LAST_CHUNK, chunk, has_left, head
from gateway.wire.server import GLANCE, Limits, Returned

IDLE: Final = 0
"""No request is being read or answered."""
READING: Final = 1
"""The head of a request is in, the rest of its body is not."""
ANSWERING: Final = 2
"""A request is complete, and its answer is not."""
GONE: Final = 3
"""The connection is closed, or the full protocol has it."""

AHEAD: Final = 64 << 10
"""Bytes of further requests that are read before the answer to the one before is out."""
LONGEST_HEAD: Final = 16 << 10
"""Bytes of a head that is read here; the limits may be lower."""
LINE_ENDS: Final = frozenset(b"\r\n")
NEVER: Final = float("inf")
EARLY: Final = 0.001
"""Seconds by which the event loop's timers may fire too early."""


class ServerState(Protocol):
    """What all connections of a server share; uvicorn's."""

    @property
    def connections(self) -> set[object]: ...
    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]: ...


class FullProtocol(Protocol):
    """The protocol that serves everything."""

    door: Returned | None

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...


class House:
    """What the doors of one server have in common."""

    __slots__ = ("full", "hot", "keep_alive", "limits", "state")

    def __init__(
        self,
        full: Callable[[], FullProtocol],
        hot: Mapping[bytes, Handler],
        limits: Limits,
        state: ServerState,
        keep_alive: float,
    ) -> None:
        """`full` makes a full protocol; `hot` are the handlers by path; `keep_alive` is how many seconds a client's
        connection may be idle."""
        self.full = full
        self.hot = hot
        self.limits = limits
        self.state = state
        self.keep_alive = keep_alive


class Door(WayBack):
    """One client's connection, an `asyncio.Protocol`, and the way back of the request that is being answered on it."""

    __slots__ = (
        "_answered",
        "_body",
        "_due",
        "_glance",
        "_house",
        "_is_closing",
        "_keep_alive",
        "_last",
        "_later",
        "_left",
        "_phase",
        "_send",
        "_stall",
        "_timer",
        "_timer_due",
        "transport",
    )

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._house: House = house
        self._phase: int = IDLE
        self._last: Head | None = None
        """The head that was read last."""
        self._body: list[bytes] = []
        self._left: int = 0
        """Bytes of the body that have not come yet."""
        self._later: bytes = b""
        """What has come behind the request that is being answered."""
        self._answered: bool = False
        self._keep_alive: bool = True
        self._due: float = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float = NEVER
        self._stall: asyncio.TimerHandle | None = None
        self._glance: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self._send: Callable[[bytes], None]
        self._is_closing: Callable[[], bool]

    @property
    def ahead(self) -> int:
        """Bytes that have been read behind the request that is being answered."""
        return len(self._later)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._send = transport.write
        self._is_closing = transport.is_closing
        house = self._house
        connections = house.state.connections
        connections.add(self)
        if len(connections) > house.limits.connections:
            self._hand_over(b"")
        else:
            self._wake(self.loop.time() + house.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = GONE
        self._due = NEVER
        for timer in (self._timer, self._stall, self._glance):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall = self._glance = None
        self._later = b""
        self._house.state.connections.discard(self)
        self.lost()

    def eof_received(self) -> bool:
        """Have the transport closed: a connection that was half closed counts as one that was left."""
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
        """Close when the request that is being answered is over; the server stops."""
        self._keep_alive = False
        if self._phase == IDLE:
            self._close()

    # reading

    def _begin(self, data: bytes) -> None:
        began = perf_counter_ns()
        house = self._house
        last = self._last
        end = 0 if last is None else last.repeated(data, house.limits.body)
        found = last if end else None
        if found is None:
            if data[0] in LINE_ENDS:
                # RFC 9112, section 2.2: a client may send empty lines before a request.
                data = data.lstrip(b"\r\n")
                if not data:
                    return
            end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) + 4
            found = self._last = read_head(data, end, house.hot, house.limits) if end > 3 else None
            if found is None:
                self._hand_over(data)
                return
        missing = end + found.length - len(data)
        self._answered = self.started = False
        exchange = found.handler.open(self, found.headers, began)
        try:
            found.known = found.handler.admit(exchange, found.known)
        except Exception as error:  # noqa: BLE001 (whatever it is ends this request and no other)
            if missing > 0:
                # Refused before its body is here: how to go on from there is the full protocol's to know.
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
        self._wake(self.loop.time() + self._house.limits.body_seconds)

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
        """A request is complete. `rest` is what came behind it."""
        self._phase = ANSWERING
        self._due = NEVER
        self._later = rest
        self._keep_alive = self._keep_alive and found.keep_alive

    def _hand_over(self, data: bytes) -> None:
        """Something is not plain: the full protocol has the connection from here on, and what was read of it."""
        self._phase = GONE
        self._house.state.connections.discard(self)
        self._last = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_due = NEVER
        full = self._house.full()
        full.door = self
        transport = self.transport
        transport.set_protocol(full)  # type: ignore[arg-type]  # it is one, though it does not say so
        full.connection_made(transport)
        if data:
            full.data_received(data)

    def take_back(self) -> None:
        """Have the connection again: the full protocol has answered, and it is idle."""
        self._phase = IDLE
        self._house.state.connections.add(self)
        self.transport.set_protocol(self)  # type: ignore[arg-type]  # as above
        self._wake(self.loop.time() + self._house.keep_alive)

    def _look(self) -> None:
        """Look whether the client is still there. Nothing is read, so the end of what it sends goes unnoticed."""
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
        date = b"date: " + self._house.state.default_headers[0][1] + b"\r\n"
        return head(status, date, headers, framing) + (b"\r\n" if self._keep_alive else CLOSE)

    def _put(self, data: bytes) -> None:
        if not self.gone and not self._is_closing():
            self._send(data)

    def write(self, data: bytes) -> None:
        if data:
            self._put(chunk(data))

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        # The hottest call there is. uvloop drops what comes between a reset and `connection_lost`, which sets `gone`.
        if not self.gone:
            self._send(framed)

    def finish(self) -> None:
        self._answered = True
        self._put(LAST_CHUNK)

    def abort(self) -> None:
        self._keep_alive = False
        self._answered = True

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self._answered = True
        self._put(self._head(status, headers, b"content-length: %d\r\n" % len(body)) + body)

    def release(self) -> None:
        if self._phase == GONE:
            return
        if not (self._answered and self._keep_alive):
            self._close()
        elif self._later:
            # In the next turn of the loop: many short requests at once must not nest. With a full socket, later.
            if self._stall is None:
                self.loop.call_soon(self._go_on)
        else:
            self._phase = IDLE
            self._wake(self.loop.time() + self._house.keep_alive)

    def _go_on(self) -> None:
        """Begin the next request, which has come already."""
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
        self._phase = GONE
        self.transport.close()
        self._expire()

    def _expire(self) -> None:
        """From now on the client has so long to take what was written."""
        if self._stall is None:
            self._stall = self.loop.call_later(self._house.limits.write_seconds, self.transport.abort)

    # time

    def _wake(self, due: float) -> None:
        """Have `_ring` called at `due`, the loop's time."""
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

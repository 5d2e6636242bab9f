"""One attempt to open a WebSocket at an engine, and then the bytes of both sides: OpenAI's Realtime API.

Rules:
- Until the engine switches protocols it is an attempt like any other: another backend may follow, and an error is an
  answer. From then on bytes pass unread in both directions; only where frames begin is known, so that a closing frame
  of the gateway's own stands between two others.
- Each side is read only as fast as the other takes it.
- It is complete if one side has closed the WebSocket with its closing frame. A connection that is just gone is a
  failure: the engine's if it was the engine's, else the client left.
- A tunnel in which nothing passes for the limit `idle`, in either direction, is closed. Pings count: whoever wants it
  to stay open sends some, as vLLM does every 20 seconds. The limit of a whole request, `total`, ends with the
  handshake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Final

from backends.base import Failure, Headers, Kind, Phase
from backends.framing.websocket import Frames
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.telemetry.timeline import FINISH, STREAM
from gateway.wire.clocks import SECOND
from gateway.wire.connection import Connection
from gateway.wire.destination import Destination
from gateway.wire.downstream import UvicornWay
from gateway.wire.relay import Attempt, Listener
from gateway.wire.switching import SWITCHED, Switching

_PASSED: Final = (b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions")
_PROTOCOL: Final = b"sec-websocket-protocol"
_REALTIME: Final = b"realtime"
_NO_SUCH: Final = (403, 404, 405, 426)
"""How servers refuse a WebSocket at a path that has none; uvicorn says 403."""


class Tunnel(Attempt):
    """An attempt for a WebSocket. See `gateway.wire.downstream.Tunnelled` for what the client's side calls."""

    __slots__ = ("_from_client", "_from_engine", "_open")

    def __init__(self, exchange: Exchange, target: Destination, listener: Listener, headers: Headers) -> None:
        """Prepare to open the WebSocket at `target`; `headers` are added to the answer of the handshake."""
        Attempt.__init__(self, exchange, target, listener, headers)
        self._from_client: Frames = Frames()
        self._from_engine: Frames = Frames()
        self._open: bool = False
        """Whether protocols were switched."""

    def _idle(self) -> Connection | None:
        return None

    async def _opened(self, seconds: float) -> Connection:
        return await self._upstream.connect(seconds, Switching)

    # from the engine: gateway.wire.connection.Sink

    def on_head(self, status: int, headers: Headers) -> None:
        if status != SWITCHED:
            Attempt.on_head(self, status, headers)
            return
        way = self._way
        if not isinstance(way, UvicornWay):
            self.on_lost(Failure(Kind.UNSUPPORTED, "this server of the gateway cannot open WebSockets"))
            return
        self._status = status
        self._data = b""
        now = self._timeline.mark(STREAM)
        self._phase = Phase.STREAM
        self._since = now
        self.committed = self._open = True
        exchange = self._exchange
        exchange.status = SWITCHED
        if self._listener is not None:
            self._listener.answer_began()
        told = (*_handshake(headers, exchange.headers), *self._headers, *exchange.marks(), *exchange.cors)
        way.switch(told, self)
        self._watch_clock(now)

    def on_body(self, data: bytes) -> None:
        if not self._open:
            Attempt.on_body(self, data)
            return
        self._from_engine.feed(data)
        self.received += len(data)
        self._since = perf_counter_ns()
        way = self._way
        if isinstance(way, UvicornWay):
            way.pass_on(data)

    def on_sent(self) -> None:
        if self._open:
            self._since = perf_counter_ns()
            way = self._way
            if isinstance(way, UvicornWay):
                way.read_on()
        else:
            Attempt.on_sent(self)

    def on_lost(self, failure: Failure) -> None:
        if self._open and not self._over and (self._from_engine.closing or self._from_client.closing):
            self._conclude()
        else:
            Attempt.on_lost(self, failure)

    def _answer(self) -> None:
        """Judge an answer that is no switch of protocols: it can only be an error."""
        Attempt._answer(self)
        failure = self.failure
        if failure is not None and self._status in _NO_SUCH:
            message = "the engine has no realtime API"
            self.failure = dataclasses.replace(failure, kind=Kind.UNSUPPORTED, message=message)

    # from the client

    @property
    def between(self) -> bool:
        """Whether the client has the whole of every frame that began."""
        return self._from_engine.between and not self._from_engine.closing

    def from_client(self, data: bytes) -> bool:
        """Pass on what the client has sent. Return False if it is to send no more for now."""
        connection = self._connection
        if self._over or not isinstance(connection, Switching):
            return True
        self._from_client.feed(data)
        self.sent += len(data)
        self._since = perf_counter_ns()
        connection.push(data)
        return connection.flushed

    def client_left(self) -> bool:
        """Take note that the client's connection is closed. Return whether the WebSocket was closed before."""
        if self._over or not (self._from_client.closing or self._from_engine.closing):
            return False
        self._conclude()
        return True

    # its end

    def _conclude(self) -> None:
        """End a WebSocket that one side has closed as it should."""
        self._timeline.mark(FINISH)
        self.complete = True
        self._way.finish()
        if self._connection is not None:
            self._connection.close()
        self._end()

    def ring(self) -> None:
        """End a tunnel in which nothing has passed for too long, else set the timer again."""
        if not self._open:
            Attempt.ring(self)
            return
        now = perf_counter_ns()
        if now < self._since + self._clocks.idle:
            self._watch_clock(self._since)
            return
        if self._from_client.closing or self._from_engine.closing:
            self._conclude()
            return
        seconds = self._clocks.idle / SECOND
        error = GatewayError(Own.SLOW_CLIENT, f"nothing was said for {seconds:g} s", code="idle_timeout")
        self._exchange.interrupt(error)

    def _watch_clock(self, since: int) -> None:
        if self._connection is not None:
            self._connection.wake(self, since + self._clocks.idle)


def _handshake(headers: Headers, asked: Mapping[bytes, bytes]) -> Headers:
    """Return the engine's part of the handshake. A browser that offers subprotocols needs one of them in the answer."""
    found = [(name, value) for name, value in headers if name in _PASSED]
    offered = asked.get(_PROTOCOL, b"")
    if offered and not any(name == _PROTOCOL for name, _ in found):
        names = [name.strip() for name in offered.split(b",")]
        if _REALTIME in names:
            found.append((_PROTOCOL, _REALTIME))
    return found

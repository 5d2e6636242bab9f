"""The channel to the client for requests that came through ASGI, under the gateway's own server or any other.

Rules:
- `UvicornWay` writes directly to the transport of our server's full protocol and bypasses ASGI's `send`. `AsgiWay`
  works under any ASGI server.
- Plain requests of the front door need neither, because there the connection itself is the channel
  (`gateway.wire.door`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from backends.base import Headers
from gateway.errors import CLIENT_GONE, ClientLeft, GatewayError, Own
from gateway.request import Exchange, WayBack
from gateway.wire.context import Through
from gateway.wire.http1 import CLOSE, LAST_CHUNK, chunk, head, peer_of
from gateway.wire.server import SCOPE_KEY, Cycle
from gateway.wire.tls import truncate

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BUFFER = 256 * 1024
"""Bytes that are buffered for a client under another ASGI server before the source is paused."""


class Tunnelled(Through, Protocol):
    """The other side of a tunnel, as the client's side knows it."""

    @property
    def between(self) -> bool:
        """Whether a frame of the gateway's own may come next."""

    def client_left(self) -> bool:
        """Take note that the client's connection is closed. Return whether that is its proper end."""


class AsgiWayBack(WayBack):
    """The channel for a request that a task of the ASGI server serves."""

    __slots__ = ()

    @abstractmethod
    async def body(self, limit: int) -> bytes:
        """Return the whole body. Raises GatewayError if it exceeds `limit` bytes, ClientLeft if the client leaves."""

    async def close(self) -> None:
        """Wait until everything written has been passed to the server. Called last, after `release`."""


class UvicornWay(AsgiWayBack):
    """The channel under our own server: writes directly to the transport of its protocol."""

    __slots__ = ("_chunked", "_cycle", "_protocol", "_receive", "_tunnel")

    def __init__(self, cycle: Cycle, receive: Receive) -> None:
        super().__init__(cycle.protocol.loop)
        self._protocol = cycle.protocol
        self._cycle = cycle.cycle
        self._receive = receive
        self._tunnel: Tunnelled | None = None
        self._chunked = self._cycle.scope["http_version"] != "1.0"
        self._protocol.listener = self
        self.gone = self._cycle.disconnected

    async def body(self, limit: int) -> bytes:
        if self.gone:
            raise ClientLeft
        if self._protocol.flow.write_paused:
            # The client has not taken the answer to its request before this one.
            await self._protocol.flow.drain()
        # The protocol has checked the limit already, and most bodies have arrived completely by now.
        cycle, flow = self._cycle, self._protocol.flow
        if cycle.more_body:
            body = await _whole_body(self._receive, limit)
        else:
            body = bytes(cycle.body)
            cycle.body = bytearray()
        if flow.read_paused and not self._protocol.pipeline:
            # uvicorn paused reading because of a large body. From now on that would only hide that the client leaves.
            flow.resume_reading()
        return body

    def start(self, status: int, headers: Headers) -> None:
        cycle = self._cycle
        if not self._chunked:
            cycle.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._write_head(status, headers, framing)

    def _write_head(self, status: int, headers: Headers, framing: bytes, body: bytes = b"") -> None:
        cycle = self._cycle
        if _is_unasked(cycle):
            cycle.keep_alive = False
        cycle.response_started = self.started = True
        end = b"\r\n" if cycle.keep_alive else CLOSE
        self._put(head(status, self._protocol.date_line(), headers, framing) + end + body)

    def _put(self, data: bytes) -> None:
        transport = self._protocol.transport
        if not self.gone and not transport.is_closing():
            transport.write(data)

    def switch(self, headers: Headers, tunnel: Tunnelled) -> None:
        """Answer that protocols are switched to a WebSocket, and have what the client sends go to `tunnel`."""
        cycle = self._cycle
        cycle.response_started = self.started = True
        cycle.keep_alive = False
        self._tunnel = self._protocol.tunnel = tunnel
        switched = b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        self._put(head(101, self._protocol.date_line(), headers, switched))

    def pass_on(self, data: bytes) -> None:
        """Send bytes that came through the tunnel."""
        self._put(data)

    def read_on(self) -> None:
        """Read again what the client sends into the tunnel."""
        self._protocol.flow.resume_reading()

    def _end_tunnel(self) -> None:
        self._tunnel = None
        self._cycle.response_complete = True
        self._protocol.listener = None
        self._protocol.end_tunnel()

    def write(self, data: bytes) -> None:
        if self._tunnel is not None:
            if self._tunnel.between:
                self._put(data)
        elif data:
            self._put(chunk(data) if self._chunked else data)

    def finish(self) -> None:
        if self._tunnel is not None:
            self._end_tunnel()
        elif not self.gone:
            if self._chunked:
                self._put(LAST_CHUNK)
            self._complete()

    def abort(self) -> None:
        if self._tunnel is not None:
            self._end_tunnel()
            return
        self._cycle.keep_alive = False
        truncate(self._protocol.transport)
        if not self.gone:
            self._complete()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        if not self.gone:
            shown = b"" if self._cycle.scope["method"] == "HEAD" else body
            self._write_head(status, headers, b"content-length: %d\r\n" % len(body), shown)
            self._complete()

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        self._protocol.listener = None
        if not cycle.keep_alive:
            self._protocol.finish()
        cycle.on_response()

    def release(self) -> None:
        if self._protocol.listener is self:
            self._protocol.listener = None

    def client(self, headers: Mapping[bytes, bytes]) -> str:
        return self._protocol.limits.proxies.client(peer_of(self._protocol.transport), headers)

    def keep(self, exchange: Exchange) -> bool:
        stall = self._protocol.stall
        if stall is None or self.gone:
            return False
        stall.keep(exchange)
        return True

    def lost(self, outcome: str = CLIENT_GONE) -> None:
        # Of several pipelined requests, uvicorn only marks the last one as disconnected.
        self._cycle.disconnected = True
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            self.gone = True
            if tunnel.client_left():
                return
        # The gateway itself may have closed the connection, because the body was too slow or too large.
        refusal = self._protocol.refusal
        super().lost(self._protocol.outcome if refusal is None else refusal.outcome)

    def pause(self) -> None:
        """Pause the source, because the client's socket buffer is full."""
        if self.source is not None:
            self.source.pause()

    def resume(self) -> None:
        """Resume the source, because the client's socket buffer has room again."""
        if self.source is not None:
            self.source.resume()


class AsgiWay(AsgiWayBack):
    """The channel under any ASGI server. One task sends, one waits for the client to leave; `close` ends both."""

    __slots__ = ("_ended", "_queue", "_receive", "_send", "_sender", "_size", "_wake", "_watcher")

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__(asyncio.get_running_loop())
        self._receive = receive
        self._send = send
        self._queue: deque[MutableMapping[str, Any]] = deque()
        self._size = 0
        self._ended = False
        self._wake = asyncio.Event()
        self._sender = asyncio.create_task(self._pump())
        self._watcher: asyncio.Task[None] | None = None

    async def body(self, limit: int) -> bytes:
        body = await _whole_body(self._receive, limit)
        self._watcher = asyncio.create_task(self._watch())
        return body

    def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._put({"type": "http.response.start", "status": status, "headers": list(headers)})

    def write(self, data: bytes) -> None:
        if data:
            self._put({"type": "http.response.body", "body": data, "more_body": True})
            self._size += len(data)
            if self._size > BUFFER and self.source is not None:
                self.source.pause()

    def finish(self) -> None:
        self._put({"type": "http.response.body", "body": b"", "more_body": False})
        self._ended = True

    def abort(self) -> None:
        # ASGI has no message for this. A server closes the connection when the application raises an exception.
        self._put({"type": "abort"})
        self._ended = True

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self._put({"type": "http.response.body", "body": body, "more_body": False})
        self._ended = True

    def release(self) -> None:
        """Do nothing: the server owns the connection, and `close` ends the tasks."""

    async def close(self) -> None:
        try:
            if self._ended and not self.gone:
                await self._sender
        finally:
            for task in (self._sender, self._watcher):
                if task is not None:
                    task.cancel()

    def _put(self, message: MutableMapping[str, Any]) -> None:
        if not self._ended:
            self._queue.append(message)
            self._wake.set()

    async def _pump(self) -> None:
        while True:
            while self._queue:
                message = self._queue.popleft()
                if message["type"] == "abort":
                    raise StreamAborted
                try:
                    await self._send(message)
                except OSError:
                    # ASGI reports in this way that the client has disconnected.
                    self.lost()
                    return
                self._size -= len(message.get("body", b""))
                if self._size <= BUFFER // 2 and self.source is not None:
                    self.source.resume()
            if self._ended:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self.lost()


class StreamAborted(Exception):
    """Raised through another ASGI server, so that it closes the connection of an incomplete answer."""


async def _whole_body(receive: Receive, limit: int) -> bytes:
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise GatewayError(Own.TOO_LARGE, f"the request body is larger than {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else parts[0]


def _is_unasked(cycle: Any) -> bool:
    """Tell whether a client waits for leave to send its body, which it may send or not once it has an answer."""
    return bool(cycle.waiting_for_100_continue and cycle.more_body)


def closing_early(scope: Scope) -> Headers:
    """Return the header that closes the connection if an answer now would leave it unclear what the client sends next.

    That is so where it expects `100 Continue` and gets another answer (RFC 9110, section 10.1.1).
    """
    cycle = scope.get(SCOPE_KEY)
    return ((b"connection", b"close"),) if isinstance(cycle, Cycle) and _is_unasked(cycle.cycle) else ()


def way_back_of(scope: Scope, receive: Receive, send: Send) -> AsgiWayBack:
    """Return the channel for one request: the direct one under our own server, else the one for any ASGI server."""
    # Removed from the scope, which it refers to: a reference cycle per request would burden the garbage collector.
    cycle = scope.pop(SCOPE_KEY, None)
    return UvicornWay(cycle, receive) if isinstance(cycle, Cycle) else AsgiWay(receive, send)

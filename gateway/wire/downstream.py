"""The way back to the client where a request came through ASGI: under our own server's full protocol, or under any
other.

Rules:
- `UvicornWay` writes to the transport of our own server's protocol, past ASGI's `send`; `AsgiWay` works under any
  server.
- The front door's plain requests need neither: there the connection itself is the way back (`gateway.wire.door`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from backends.base import Headers
from gateway.errors import ClientLeft, GatewayError, Own
from gateway.request import WayBack
from gateway.wire.http1 import CLOSE, LAST_CHUNK, chunk, head
from gateway.wire.server import SCOPE_KEY, Cycle

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BUFFER = 256 * 1024
"""Bytes held for a client under a foreign server before its source is paused."""


class AsgiWayBack(WayBack):
    """A way back whose request is served by a task of the server's."""

    __slots__ = ()

    @abstractmethod
    async def body(self, limit: int) -> bytes:
        """Return the request's whole body. Raises GatewayError above `limit` bytes, ClientLeft where it never comes."""

    async def close(self) -> None:
        """Wait until what was written has been handed on. Called last, after `release`."""


class UvicornWay(AsgiWayBack):
    """Writes to the transport that our own server's protocol owns, past ASGI's `send`."""

    __slots__ = ("_chunked", "_cycle", "_protocol", "_receive")

    def __init__(self, cycle: Cycle, receive: Receive) -> None:
        super().__init__(cycle.protocol.loop)
        self._protocol = cycle.protocol
        self._cycle = cycle.cycle
        self._receive = receive
        self._chunked = self._cycle.scope["http_version"] != "1.0"
        self._protocol.listener = self
        self.gone = self._cycle.disconnected

    async def body(self, limit: int) -> bytes:
        if self.gone:
            raise ClientLeft
        if self._protocol.flow.write_paused:
            # The client has not taken the answer to its request before this one.
            await self._protocol.flow.drain()
        # The protocol refuses bodies beyond the server's limit; most bodies are here already.
        cycle, flow = self._cycle, self._protocol.flow
        if cycle.more_body:
            body = await _whole_body(self._receive, limit)
        else:
            body = bytes(cycle.body)
            cycle.body = bytearray()
        if flow.read_paused and not self._protocol.pipeline:
            # uvicorn stops reading when much has come; from now on that would only hide the client's leaving.
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
        cycle.response_started = self.started = True
        end = b"\r\n" if cycle.keep_alive else CLOSE
        self._put(head(status, self._protocol.date_line(), headers, framing) + end + body)

    def _put(self, data: bytes) -> None:
        transport = self._protocol.transport
        if not self.gone and not transport.is_closing():
            transport.write(data)

    def write(self, data: bytes) -> None:
        if data:
            self._put(chunk(data) if self._chunked else data)

    def finish(self) -> None:
        if not self.gone:
            if self._chunked:
                self._put(LAST_CHUNK)
            self._complete()

    def abort(self) -> None:
        self._cycle.keep_alive = False
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
            self._protocol.transport.close()
        cycle.on_response()

    def release(self) -> None:
        if self._protocol.listener is self:
            self._protocol.listener = None

    def lost(self, outcome: str = "client_gone") -> None:
        # uvicorn tells it to the youngest of several pipelined requests alone.
        self._cycle.disconnected = True
        # It may have been sent away, for a body that was too slow or too large.
        refusal = self._protocol.refusal
        super().lost(outcome if refusal is None else refusal.outcome)

    def pause(self) -> None:
        """Pause the source: the client's socket is full."""
        if self.source is not None:
            self.source.pause()

    def resume(self) -> None:
        """Resume the source: there is room again."""
        if self.source is not None:
            self.source.resume()


class AsgiWay(AsgiWayBack):
    """Speaks plain ASGI. One task sends, one watches for the client leaving; both end with the request."""

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
        # ASGI has no word for it; a server that sees the application fail closes the connection.
        self._put({"type": "abort"})
        self._ended = True

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self._put({"type": "http.response.body", "body": body, "more_body": False})
        self._ended = True

    def release(self) -> None:
        """Do nothing: `close` waits for what is written."""

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
                    # ASGI's way to say that the client is gone.
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
    """Raised through a foreign ASGI server so that it closes the connection of an answer that broke."""


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


def way_back_of(scope: Scope, receive: Receive, send: Send) -> AsgiWayBack:
    """Return the way back for one request, the direct one where the server is ours."""
    # Taken out, because it holds the scope in turn: a circle per request would be the collector's to find.
    cycle = scope.pop(SCOPE_KEY, None)
    return UvicornWay(cycle, receive) if isinstance(cycle, Cycle) else AsgiWay(receive, send)

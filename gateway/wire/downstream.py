"""The way back to the client: one small interface, and its two implementations.

Rules:
- `write` never waits. When the client's socket is full, the source that was attached is paused, and resumed after.
- The client leaving cancels the request's task, whatever it is waiting for, with `gone` set; so every phase ends the
  same way, through its `finally`.
- An answer ends by `finish` (complete) or `abort` (the connection is closed without the proper end, so that no client
  takes a broken answer for a whole one).
- `DirectDownstream` writes to the transport of our own server protocol; `AsgiDownstream` works under any ASGI server.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from backends.base import Headers
from gateway.errors import GatewayError, Own
from gateway.wire.server import SCOPE_KEY, STATUS_LINES, Exchange

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BUFFER = 256 * 1024
"""Bytes held for a client under a foreign server before its source is paused."""


class Source(Protocol):
    """Where the answer's bytes come from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Downstream(ABC):
    """One request's way back."""

    __slots__ = ("_source", "_task", "gone", "loop", "started")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is the one that runs. To ask asyncio for it costs a system call each time (Python before 3.12), so who
        has a downstream takes it from there."""
        self.loop = loop
        self.gone = False
        self.started = False
        self._source: Source | None = None
        self._task = asyncio.current_task(loop)

    def attach(self, source: Source | None) -> None:
        """Name who is to be paused when the client cannot keep up; None when there is nobody."""
        self._source = source

    @property
    def why_gone(self) -> str:
        """The metrics' word for a request whose client is gone."""
        return "client_gone"

    @abstractmethod
    async def body(self, limit: int) -> bytes:
        """The request's whole body. Raises GatewayError above `limit` bytes."""

    @abstractmethod
    def start(self, status: int, headers: Headers) -> None:
        """Send status and headers of an answer whose length is not known yet."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send some of the body."""

    @abstractmethod
    def finish(self) -> None:
        """The answer is complete."""

    @abstractmethod
    def abort(self) -> None:
        """The answer will not be complete: send what is buffered and close the connection."""

    @abstractmethod
    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer at once."""

    async def close(self) -> None:
        """Wait until what was written has been handed on, and let go."""
        self._source = self._task = None

    def lost(self) -> None:
        """The client left: end the request's task."""
        self.gone = True
        if self._task is not None:
            self._task.cancel()


class DirectDownstream(Downstream):
    """Writes to the transport that our own server protocol owns, past ASGI's `send`."""

    __slots__ = ("_chunked", "_cycle", "_protocol", "_receive")

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        super().__init__(exchange.protocol.loop)
        self._protocol = exchange.protocol
        self._cycle = exchange.cycle
        self._receive = receive
        self._chunked = self._cycle.scope["http_version"] != "1.0"
        self._protocol.listener = self
        if self._cycle.disconnected:
            self.lost()

    @property
    def why_gone(self) -> str:
        # It may have been sent away, for a body that was too slow or too large.
        refusal = self._protocol.refusal
        return "client_gone" if refusal is None else refusal.outcome

    async def body(self, limit: int) -> bytes:
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
        parts = [STATUS_LINES[status], self._protocol.date_line()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        else:
            cycle.keep_alive = False
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        cycle.response_started = self.started = True
        self._protocol.transport.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        if self.gone or not data:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._protocol.transport.write(data)

    def finish(self) -> None:
        if not self.gone:
            if self._chunked:
                self._protocol.transport.write(b"0\r\n\r\n")
            self._complete()

    def abort(self) -> None:
        self._cycle.keep_alive = False
        if not self.gone:
            self._complete()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        if self.gone:
            return
        cycle = self._cycle
        parts = [STATUS_LINES[status], self._protocol.date_line()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        if cycle.scope["method"] != "HEAD":
            parts.append(body)
        cycle.response_started = self.started = True
        self._protocol.transport.write(b"".join(parts))
        self._complete()

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        self._protocol.listener = None
        if not cycle.keep_alive:
            self._protocol.transport.close()
        cycle.on_response()

    async def close(self) -> None:
        self._source = self._task = None
        if self._protocol.listener is self:
            self._protocol.listener = None

    def lost(self) -> None:
        # uvicorn tells it to the youngest of several pipelined requests alone.
        self._cycle.disconnected = True
        super().lost()

    def pause(self) -> None:
        """The client's socket is full."""
        if self._source is not None:
            self._source.pause()

    def resume(self) -> None:
        """There is room again."""
        if self._source is not None:
            self._source.resume()


class AsgiDownstream(Downstream):
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
            if self._size > BUFFER and self._source is not None:
                self._source.pause()

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

    async def close(self) -> None:
        await super().close()
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
                if self._size <= BUFFER // 2 and self._source is not None:
                    self._source.resume()
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


class ClientLeft(Exception):
    """The client left while it was still sending its request."""


def downstream_of(scope: Scope, receive: Receive, send: Send) -> Downstream:
    """The way back for one request, the direct one where the server is ours."""
    # Taken out, because it holds the scope in turn: a circle per request would be the collector's to find.
    exchange = scope.pop(SCOPE_KEY, None)
    if isinstance(exchange, Exchange):
        return DirectDownstream(exchange, receive)
    return AsgiDownstream(receive, send)

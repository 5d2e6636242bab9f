"""One long request to a backend whose answer is read piece by piece, for actions of operators and not for inference.

Rules:
- It has a connection of its own. `close` always closes it, so that the engine notices if the answer is not wanted.
- Its total time is unlimited, because a model may take hours to download. Only the time without any data is limited.
- A client that reads slowly pauses the engine (`pause`, `resume`).
- Errors are raised as GatewayError.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from backends.base import Call, Failure, Headers, Kind, Phase
from gateway.errors import GatewayError
from gateway.wire.connection import Connection, Sink
from gateway.wire.upstream import ConnectError, Upstream

CONNECT = 5.0
"""Most seconds that connecting may take."""
SILENCE = 600.0
"""Most seconds without data. An engine that loads a large model sends nothing for minutes."""


def _nothing(connection: Connection) -> None:
    """Do nothing, because there is no connection yet."""


class Transfer(Sink):
    """One request and its answer. After `open`, `status` and `headers` are those of the answer."""

    def __init__(self, upstream: Upstream, call: Call, silence: float = SILENCE) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._upstream = upstream
        self._call = call
        self._silence = silence
        self._connection: Connection | None = None
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._failure: Failure | None = None
        self._news = asyncio.Event()
        self._forget: Callable[[Connection], None] = _nothing

    async def open(self) -> None:
        """Send the request and wait for the head of the answer. Raises GatewayError."""
        try:
            self._connection = await self._upstream.connect(CONNECT)
        except ConnectError as error:
            raise GatewayError.of(error.failure) from None
        self._forget, self._connection.on_close = self._connection.on_close, self._on_close
        self._connection.send(self._upstream.encode(self._call, b"connection: close\r\n"), self)
        while not self.status:
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they arrive. Raises GatewayError."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._ended:
                return
            await self._wait()

    async def whole(self, limit: int) -> bytes:
        """Return the whole body. Raises GatewayError, also if it exceeds `limit` bytes."""
        body = b""
        async for piece in self.pieces():
            body += piece
            if len(body) > limit:
                raise GatewayError(Kind.GARBLED, "the engine's answer is too large")
        return body

    def pause(self) -> None:
        """Stop reading from the engine, because the client cannot keep up."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Continue reading from the engine."""
        if self._connection is not None:
            self._connection.resume()

    def close(self) -> None:
        """Close the connection to the engine."""
        if self._connection is not None:
            self._connection.close()

    async def _wait(self) -> None:
        """Wait until the connection reports something. Raises GatewayError on failure or after `silence` seconds."""
        if self._failure is not None:
            raise GatewayError.of(self._failure)
        self._news.clear()
        try:
            async with asyncio.timeout(self._silence):
                await self._news.wait()
        except TimeoutError:
            phase = Phase.STREAM if self.status else Phase.FIRST_BYTE
            failure = Failure(Kind.TIMEOUT, f"the engine said nothing for {self._silence:g} s", phase)
            raise GatewayError.of(failure) from None

    def _on_close(self, connection: Connection) -> None:
        """Record that the connection was closed, also if the gateway itself did so because the engine was stopped."""
        self._forget(connection)
        if not self._ended and self._failure is None:
            self._failure = Failure(Kind.RESET, "the engine closed the connection")
        self._news.set()

    # gateway.wire.connection.Sink

    def on_sent(self) -> None:
        """Do nothing."""

    def on_head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._news.set()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._news.set()

    def on_end(self) -> None:
        self._ended = True
        self._news.set()

    def on_lost(self, failure: Failure) -> None:
        self._failure = failure
        self._news.set()

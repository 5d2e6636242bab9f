"""The client side of the wire: HTTP/1.1 connections to one backend, kept alive and reused.

Rules:
- A connection carries one exchange at a time and reports it to a `Sink` by plain calls, in the order things happen:
  perhaps `on_sent`, one `on_head`, any number of `on_body`, then exactly one of `on_end` and `on_lost`.
- It goes back to the pool only after a complete exchange that left nothing unread. Everything else closes it, so that
  an answer can never reach another request.
- No redirects, no cookies, no proxies from the environment. `accept-encoding: identity` is asked for, and an answer
  that is compressed all the same is refused: a small one could become huge.
- Trailers are read and dropped: nothing that comes after a body may change what its head said.
- A name is looked up for each new connection, inside the same time limit, and the certificate must be the name's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from backends.base import Call, Failure, Headers, Kind, Phase
from gateway.wire.names import Resolver, system_look_up

MAX_HEAD = 64 * 1024
"""Bytes of an answer's head, or of its trailers."""
MAX_INTERIM = 10
"""1xx answers before the real one."""


class Sink(Protocol):
    """Who is told what an exchange brings."""

    def on_sent(self) -> None:
        """The backend's socket has taken the rest of a request that it did not take at once."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and headers of the answer are in."""

    def on_body(self, data: bytes) -> None:
        """Some of the body, transfer coding removed."""

    def on_end(self) -> None:
        """The answer is complete."""

    def on_lost(self, failure: Failure) -> None:
        """The answer will never be complete."""


class Connection(asyncio.Protocol):
    """One connection to a backend."""

    __slots__ = (
        "_eof_ends",
        "_fed",
        "_head",
        "_headers",
        "_interim",
        "_parser",
        "_sink",
        "_size",
        "_transport",
        "answered",
        "idle_since",
        "on_close",
        "paused",
        "reused",
        "status",
    )

    def __init__(self, on_close: Callable[[Connection], None]) -> None:
        self.on_close = on_close
        self.reused = False
        self.answered = False
        self.paused = False
        self.idle_since = 0.0
        self.status = 0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._sink: Sink | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head = 0
        self._size = 0
        self._interim = 0
        self._fed = False
        self._eof_ends = False

    def send(self, data: bytes, sink: Sink) -> None:
        """Start an exchange: write a whole request, report the answer to `sink`."""
        assert self._transport is not None and self._sink is None
        self._sink = sink
        self.answered = False
        self.status = self._head = self._size = self._interim = 0
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._transport.write(data)

    @property
    def usable(self) -> bool:
        """It can carry another exchange."""
        return self._transport is not None and not self._transport.is_closing() and self._sink is None

    @property
    def flushed(self) -> bool:
        """The backend's socket has taken the whole request."""
        return self._transport is None or self._transport.get_write_buffer_size() == 0

    def pause(self) -> None:
        """Stop reading: who is behind the sink cannot keep up."""
        self.paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Drop the connection at once; the sink hears nothing more. The engine sees it and stops its work."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are registered as no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # Write at once, and say when all is written: that is when the engine's own time begins.
        self._transport.set_write_buffer_limits(0)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.on_sent()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        sink, self._sink = self._sink, None
        self.on_close(self)
        if sink is None:
            return
        if self._eof_ends and exc is None:
            sink.on_end()
        else:
            sink.on_lost(
                Failure(Kind.RESET, "the engine closed the connection", detail=str(exc or "end of file"))
            )

    def data_received(self, data: bytes) -> None:
        if self._sink is None or self._parser is None:
            # Bytes nobody asked for: whatever they are, the next exchange must not see them.
            self.close()
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._garbled("it switched protocols")
        except httptools.HttpParserError as error:
            self._garbled(str(error.__context__ or error))
        else:
            if self._fed:
                self._fed = False
                self._head = 0
            else:
                self._count_lines(data)

    def _count_lines(self, data: bytes) -> None:
        """The parser keeps what it has of a line of the head, of a chunk or of the trailers; one without end must not
        fill the memory."""
        self._head += len(data)
        if self._head > MAX_HEAD:
            self._garbled("its body's frame is too large" if self.status else "its head is too large")

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._headers = []
        self._eof_ends = False
        if self._sink is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise ValueError("its headers are too large")
        if not self.status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise ValueError("status 101, or too many interim answers")
            return
        self.status = status
        self._size = self._head = 0
        framed = False
        for name, value in self._headers:
            if name in _FRAMING:
                framed = True
            if name in _CODING and value.lower() not in _PLAIN:
                raise ValueError("it is compressed, though that was not asked for")
        self._eof_ends = not framed and status not in (204, 304)
        if self._sink is not None:
            self._sink.on_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._fed = True
        if self._sink is not None:
            self._sink.on_body(body)

    def on_message_complete(self) -> None:
        if not self.status or self._sink is None:
            return
        assert self._parser is not None and self._transport is not None
        sink, self._sink = self._sink, None
        if not self._parser.should_keep_alive():
            self._transport.close()
        sink.on_end()

    def _garbled(self, detail: str) -> None:
        sink = self._sink
        self.close()
        if sink is not None:
            message = "the engine's answer is not HTTP the gateway can read"
            sink.on_lost(Failure(Kind.GARBLED, message, detail=detail))


_FRAMING = (b"content-length", b"transfer-encoding")
_CODING = (b"content-encoding", b"transfer-encoding")
_PLAIN = (b"", b"identity", b"chunked")


class ConnectError(Exception):
    """No connection could be made."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _unreachable(message: str, detail: str = "") -> ConnectError:
    return ConnectError(Failure(Kind.CONNECT, message, phase=Phase.CONNECT, detail=detail))


class Upstream:
    """The connections to one base URL."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        keep_alive: float = 4.0,
        max_idle: int = 512,
    ) -> None:
        """`url` is `http(s)://host[:port][/prefix]`; `headers` go with every request.

        `keep_alive` is how many seconds an idle connection is trusted. Many engines run on uvicorn, which drops one
        after 5 s, so the default is less.
        """
        parts = urlsplit(url)
        self.url = url
        self._netloc = parts.netloc
        self._host = parts.hostname or "127.0.0.1"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._resolver = Resolver(self._host, self._port, system_look_up)
        self._prefix = parts.path.rstrip("/").encode()
        self._keep_alive = keep_alive
        self._max_idle = max_idle
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._common = b""
        self.change_headers(headers)

    @property
    def open(self) -> int:
        """Connections that exist."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Connections that wait for an exchange."""
        return len(self._idle)

    def change_headers(self, headers: Mapping[str, str]) -> None:
        """Send these headers with every request from the next one on."""
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._common = f"host: {self._netloc}\r\n{own}accept-encoding: identity\r\n".encode("latin-1")

    def encode(self, call: Call, extra: bytes = b"") -> bytes:
        """The bytes of a whole request. `extra` holds further header lines, each with its line end."""
        parts = [call.method.encode(), b" ", self._prefix, call.path.encode()]
        parts += (b" HTTP/1.1\r\n", self._common, extra)
        for name, value in call.headers:
            parts += (name, b": ", value, b"\r\n")
        if call.body:
            parts += (b"content-type: ", call.content_type)
            parts.append(b"\r\ncontent-length: %d\r\n\r\n" % len(call.body))
            parts.append(call.body)
        else:
            parts.append(b"\r\n")
        return b"".join(parts)

    def take(self, now: float) -> Connection | None:
        """An idle connection that is fresh enough, the youngest first; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < self._keep_alive:
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self, timeout: float) -> Connection:
        """A new connection. Raises ConnectError, also when it takes longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connect(await self._resolver.addresses())
        except TimeoutError:
            raise _unreachable("the engine could not be reached in time") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise _unreachable("the engine's TLS certificate is not to be trusted", why) from None
        except socket.gaierror as error:
            raise _unreachable("the engine's host name is not known", error.strerror or "") from None
        except (OSError, UnicodeError) as error:  # the latter: a host name no DNS can hold
            raise _unreachable("the engine could not be reached", str(error)) from None
        if not connection.usable:
            failure = Failure(Kind.RESET, "the engine closed the connection", phase=Phase.CONNECT)
            raise ConnectError(failure)
        self._open.add(connection)
        return connection

    async def _connect(self, addresses: list[str]) -> Connection:
        """A connection to the first address that takes one. Raises what the last one did."""
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        *others, last = addresses
        for address in others:
            with contextlib.suppress(OSError):
                return await self._connect_to(loop, address, name)
        return await self._connect_to(loop, last, name)

    async def _connect_to(
        self, loop: asyncio.AbstractEventLoop, address: str, name: str | None
    ) -> Connection:
        connection = Connection(self._forget)
        try:
            await loop.create_connection(
                lambda: connection, address, self._port, ssl=self._tls, server_hostname=name
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: Connection, now: float) -> None:
        """Keep a connection for the next exchange, if it can carry one."""
        idle = self._idle
        if connection.usable and connection.flushed and len(idle) < self._max_idle:
            connection.idle_since = now
            if connection.paused:
                connection.resume()
            idle.append(connection)
        else:
            connection.close()
        if idle and now - idle[0].idle_since >= self._keep_alive:
            # The youngest is taken first, so nobody else would ever look at the oldest.
            idle[0].close()

    def _forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def retire(self) -> None:
        """Close idle connections now and every other one when its exchange is over: the backend is left."""
        self._max_idle = 0
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Drop every connection, busy ones too."""
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()

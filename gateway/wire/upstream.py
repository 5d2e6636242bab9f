"""The HTTP client: opens, pools and reuses the connections to one backend.

Rules:
- A connection returns to the pool only after a complete exchange that left no bytes unread. In all other cases it is
  closed, so that an answer can never reach another request. When it may be used again is decided in
  `gateway.wire.idle`.
- That the gateway has no file descriptor left is no fault of the engine. Idle connections are closed for a new one.
- Redirects, cookies and proxies from the environment are not supported.
- The host name is resolved for each new connection, within the limit for connecting. That it cannot be is no fault of
  the engine. A TLS certificate must be valid
  for this name.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast
from urllib.parse import urlsplit

from backends.base import Call, Failure, Kind, Phase
from gateway.config.address import api_prefix
from gateway.wire.connection import Connection
from gateway.wire.idle import IdlePool, is_out_of_descriptors, make_room
from gateway.wire.names import Resolver, system_look_up
from gateway.wire.room import make_room_of_clients

MAX_PATHS: Final = 256
"""Most paths of a backend whose encoded heads are cached. With some engines, paths contain the names of models."""


class ConnectError(Exception):
    """No connection could be opened; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _unreachable(message: str, facts: str = "", kind: Kind = Kind.CONNECT) -> ConnectError:
    return ConnectError(Failure(kind, message, phase=Phase.CONNECT, facts=facts))


class Upstream:
    """The pool of connections to one base URL."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        keep_alive: float = 4.0,
        max_idle: int = 512,
    ) -> None:
        """Prepare a pool for `url`, which is `http(s)://host[:port][/prefix]`; `headers` are sent with every request.

        A prefix that ends in a version of an API stands for `/v1` (see `gateway.config.address.api_prefix`).

        `keep_alive` is for how many seconds an idle connection is reused. Many engines run on uvicorn, which closes
        idle connections after 5 s, so the default is less. `max_idle` is the most idle connections that are kept.
        """
        parts = urlsplit(url)
        self.url = url
        self._netloc = parts.netloc
        self._host = parts.hostname or "127.0.0.1"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._resolver = Resolver(self._host, self._port, system_look_up)
        base, version = api_prefix(parts.path)
        self._prefix = base.encode()
        self._version = version.encode()
        self.pool = IdlePool(url, keep_alive, max_idle)
        self._open: set[Connection] = set()
        self._heads: dict[str, bytes] = {}
        self._common = b""
        self.change_headers(headers)

    @property
    def open(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Return the number of idle connections."""
        return self.pool.size

    def change_headers(self, headers: Mapping[str, str]) -> None:
        """Send these headers with every further request, instead of the ones set before."""
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._common = f"host: {self._netloc}\r\n{own}accept-encoding: identity\r\n".encode("latin-1")
        self._heads.clear()

    def encode(self, call: Call, extra: bytes = b"") -> bytes:
        """Return a whole request as bytes. `extra` holds further header lines, each with its line end."""
        parts = [self._head_of(call), extra]
        for name, value in call.headers:
            parts += (name, b": ", value, b"\r\n")
        if call.body:
            parts += (b"content-type: ", call.content_type)
            parts.append(b"\r\ncontent-length: %d\r\n\r\n" % len(call.body))
            parts.append(call.body)
        else:
            parts.append(b"\r\n")
        return b"".join(parts)

    def _head_of(self, call: Call) -> bytes:
        """Return the request line and the common headers, cached by path for POST requests."""
        if call.method != "POST":
            return self._first_lines(call)
        head = self._heads.get(call.path)
        if head is None:
            if len(self._heads) >= MAX_PATHS:
                self._heads.clear()
            head = self._heads[call.path] = self._first_lines(call)
        return head

    def _first_lines(self, call: Call) -> bytes:
        path = call.path.encode()
        if path.startswith(b"/v1/"):
            path = self._version + path[3:]
        line = b"%b %b%b HTTP/1.1\r\n" % (call.method.encode(), self._prefix, path)
        return line + self._common

    def take(self) -> Connection | None:
        """Return an idle connection, or None if there is none that may be used."""
        return self.pool.take()

    async def connect(self, timeout: float, kind: type[Connection] = Connection) -> Connection:
        """Open a connection of this kind. Raises ConnectError, also if it takes longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connect_at_last(kind)
        except TimeoutError:
            if not self._resolver.known:
                message = "the engine's host name could not be looked up in time"
                raise _unreachable(message, kind=Kind.UNRESOLVED) from None
            raise _unreachable("the engine could not be reached in time") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message
            raise _unreachable("the engine's TLS certificate is not to be trusted", why) from None
        except socket.gaierror as error:
            message, why = "the engine's host name is not known", error.strerror or ""
            raise _unreachable(message, why, Kind.UNRESOLVED) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: the host name is invalid
            if is_out_of_descriptors(error):
                message = "the gateway has no file descriptor left for a connection"
                raise ConnectError(Failure(Kind.OVERLOADED, message, phase=Phase.CONNECT)) from None
            raise _unreachable("the engine could not be reached", str(error)) from None
        if not connection.usable:
            failure = Failure(Kind.RESET, "the engine closed the connection", phase=Phase.CONNECT)
            raise ConnectError(failure)
        self._open.add(connection)
        return connection

    async def _connect_at_last(self, kind: type[Connection]) -> Connection:
        """Connect, again and again while there is no file descriptor left and idle connections can be closed."""
        while True:
            try:
                return await self._connect(await self._resolver.addresses(), kind)
            except OSError as error:
                if not is_out_of_descriptors(error):
                    raise
                if not (await make_room() or await make_room_of_clients()):
                    raise

    async def _connect(self, addresses: list[str], kind: type[Connection]) -> Connection:
        """Connect to the first address that accepts. Raises the error of the last address if none does."""
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        *others, last = addresses
        for address in others:
            with contextlib.suppress(OSError):
                return await self._connect_to(loop, address, name, kind)
        return await self._connect_to(loop, last, name, kind)

    async def _connect_to(
        self, loop: asyncio.AbstractEventLoop, address: str, name: str | None, kind: type[Connection]
    ) -> Connection:
        connection = kind(loop, self._forget)
        try:
            await loop.create_connection(
                lambda: cast(asyncio.Protocol, connection),
                address,
                self._port,
                ssl=self._tls,
                server_hostname=name,
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: Connection, now: float) -> None:
        """Return a connection to the pool if it can be reused, else close it. `now` is the loop time."""
        if connection.usable and connection.flushed:
            if connection.paused:
                connection.resume()
            self.pool.put(connection, now)
        else:
            connection.close()

    def _forget(self, connection: Connection) -> None:
        """Remove a connection that has been closed."""
        self._open.discard(connection)
        self.pool.forget(connection)

    def retire(self) -> None:
        """Close idle connections now and the others when their exchanges end, because the backend is no longer used."""
        self.pool.most = 0
        self.pool.clear()

    def close(self) -> None:
        """Close every connection at once. The requests that use one fail."""
        for connection in tuple(self._open):
            connection.abort()
        self.pool.clear()

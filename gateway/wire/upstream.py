"""The client side of the wire: the connections to one backend, made, kept alive and reused.

Rules:
- A connection goes back to the pool only after a complete exchange that left nothing unread. Everything else closes it,
  so that an answer can never reach another request.
- No redirects, no cookies, no proxies from the environment.
- A name is looked up for each new connection, inside the same time limit, and the certificate must be the name's.
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
from gateway.wire.connection import Connection
from gateway.wire.names import Resolver, system_look_up

MAX_PATHS: Final = 256
"""Paths of a backend whose first lines are remembered. Some engines' paths hold the names of models."""


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
        self._heads: dict[str, bytes] = {}
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
        self._heads.clear()

    def encode(self, call: Call, extra: bytes = b"") -> bytes:
        """The bytes of a whole request. `extra` holds further header lines, each with its line end."""
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
        """The first lines of a request. They are the same for each request to a path."""
        if call.method != "POST":
            return self._first_lines(call)
        head = self._heads.get(call.path)
        if head is None:
            if len(self._heads) >= MAX_PATHS:
                self._heads.clear()
            head = self._heads[call.path] = self._first_lines(call)
        return head

    def _first_lines(self, call: Call) -> bytes:
        line = b"%b %b%b HTTP/1.1\r\n" % (call.method.encode(), self._prefix, call.path.encode())
        return line + self._common

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
        connection = Connection(loop, self._forget)
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

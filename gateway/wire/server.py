"""The full protocol: uvicorn's HTTP/1.1 protocol with the additional checks that a public server needs.

Rules, all applied before any application code runs:
- Header size, header count and body size are limited. Head and body must each arrive within an absolute time limit,
  which bytes that trickle in do not extend.
- A request has exactly one `Host`, at most one of `Content-Length` and `Transfer-Encoding` and that only once, and no
  transfer coding but `chunked`. Trailers are read and dropped. Chunk extensions and unfinished lines are limited too.
- A request that breaks a rule is answered with OpenAI's error format, and the connection is closed so that a client
  which still sends sees the answer. Behind other requests that comes in its turn, and no clock runs until then.
- An `Upgrade` header is ignored, and the request is served as it is; but one that is answered with a switch of
  protocols makes the connection a tunnel, in which nothing is parsed any more.
- The client must go on reading what was written (`gateway.wire.stall`), on a connection that is being closed too.
- `listener` is set while an answer is written directly to the transport. It is told when the client's socket buffer is
  full, has room again, or the client is gone, even while reading is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backends.base import Headers
from gateway.errors import CLIENT_GONE, GatewayError, Own
from gateway.wire import checks
from gateway.wire.context import Listener, Returned, Through
from gateway.wire.http1 import has_left
from gateway.wire.limits import GLANCE, Limits
from gateway.wire.linger import Ending, linger
from gateway.wire.stall import Stall

SCOPE_KEY = "gateway.cycle"
"""The key of a request's `Cycle` in its ASGI scope."""
SPARE = 64
"""Connections beyond their limit that are closed so that their clients see why. More are closed at once."""


class Cycle(NamedTuple):
    """One request on one connection. Pipelined requests on a connection each have their own."""

    protocol: GatewayProtocol
    cycle: Any
    """uvicorn's RequestResponseCycle."""


class GatewayProtocol(HttpToolsProtocol):
    """One client connection, served by uvicorn with additional checks."""

    limits = Limits()
    cors: Callable[[Mapping[bytes, bytes]], Headers] = staticmethod(lambda headers: ())
    """From a request's headers to those that let the page behind it read the answer."""
    refused: Callable[[str], None] = staticmethod(lambda reason: None)
    """Counts a request that was refused, by one of `gateway.wire.checks.REASONS`."""
    listener: Listener | None = None
    tunnel: Through | None = None
    door: Returned | None = None
    """The front door that gets the connection back when it is idle."""
    refusal: GatewayError | None = None
    """The rule that the client broke, if the connection is being closed for that."""
    _later: GatewayError | None = None
    """The same, while requests before the one that broke it are being answered. Nothing more is read then."""
    _awaits: str = "headers"
    """The part of the current request that is being read: headers, body, or empty if none is."""
    _armed: str = ""
    _deadline: asyncio.TimerHandle | None = None
    stall: Stall | None = None
    """The clock of a client that does not read fast enough, while it runs."""
    outcome = CLIENT_GONE
    """What the metrics say of a request whose client is gone."""
    _glance: asyncio.TimerHandle | None = None
    _read_bytes = 0
    """Bytes read of the part that is being read, framing included."""
    _header_bytes = 0
    _hosts = 0
    _lengths = 0
    """The number of headers that state the length of the body."""
    _body_bytes = 0
    _most, _body_seconds = 0, 0.0
    """How many bytes the body of the current request may have, and how long it may take to come."""

    def date_line(self) -> bytes:
        """Return the current `Date` header line."""
        return b"date: " + self.server_state.default_headers[0][1] + b"\r\n"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if self.refusal is not None:
            self.send_400_response("")
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stall is not None:
            self.outcome = self.stall.lost(exc)
        self._let_go()
        self._unset_keepalive_if_required()
        if self.listener is not None:
            self.listener.lost()
            self.listener = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._later is not None:
            return
        if self.tunnel is not None:
            if not self.tunnel.from_client(data):
                self.flow.pause_reading()
            return
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._awaits:
            self._count(len(data))
        if self.parser is None:
            return
        if self.flow.read_paused and self._glance is None:
            self._glance = self.loop.call_later(GLANCE, self._look)
        if self._awaits != self._armed:
            self._arm()
        if not self._awaits and self.timeout_keep_alive_task is None:
            self._rest()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expire()
        if self.listener is not None:
            self.listener.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None
        if self.transport.is_closing():
            self._expire()
        if self.listener is not None:
            self.listener.resume()

    # uvicorn's own callbacks

    def on_response_complete(self) -> None:
        if self.parser is None:
            return
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._expire()
        elif is_last and self._later is not None:
            self._answer(self._later)
        elif self._awaits:
            self._unset_keepalive_if_required()
            if self._awaits != self._armed:
                self._arm()
        elif self.door is not None and self._is_idle():
            self._go_back(self.door)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expire()

    # httptools callbacks. An exception in one leads to `send_400_response`. A head that comes while a body is expected
    # was inserted by `_feed`.

    def on_message_begin(self) -> None:
        if self._awaits == "body":
            return
        super().on_message_begin()
        self._awaits = "headers"
        self._header_bytes = self._body_bytes = self._read_bytes = self._hosts = self._lengths = 0

    def on_url(self, url: bytes) -> None:
        if self._awaits == "body":
            return
        super().on_url(url)
        if len(self.url) > self.limits.url:
            message = f"the URL is longer than {self.limits.url} bytes"
            self._check(GatewayError(Own.URL_TOO_LONG, message))
        self._most, self._body_seconds = self.limits.of(self.url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self.limits.headers or len(self.headers) >= self.limits.header_count:
            message = f"more than {self.limits.header_count} headers or {self.limits.headers} bytes of them"
            self._check(GatewayError(Own.HEADERS_TOO_LARGE, message))
        if self._awaits == "body":
            return
        # The same as uvicorn's own method, without the cost of one more call per header.
        name = name.lower()
        if name in checks.CHECKED:
            self._hosts += name == b"host"
            self._lengths += name in (b"content-length", b"transfer-encoding")
            self.expect_100_continue |= name == b"expect"
            self._check(checks.header_fault(name, value, self._most))
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._awaits == "body":
            return
        self._check(checks.head_fault(self.parser.get_http_version(), self._hosts, self._lengths))
        super().on_headers_complete()
        self.scope[SCOPE_KEY] = Cycle(self, self.cycle)  # type: ignore[literal-required]
        if self._lengths:
            self.cycle.transport = Ending(self.transport, self.finish)  # type: ignore[assignment]
        self._awaits = "body"
        self._read_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._most:
            self._check(checks.too_large(self._most))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return
        super().on_message_complete()
        self._awaits = ""

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request or one that broke a limit with `refusal`, and close the connection."""
        error = self.refusal or GatewayError(Own.INVALID, "this is no valid HTTP/1.1", code="invalid_http")
        is_behind = self._is_behind()
        part, self._awaits = self._awaits, ""
        if self.transport.is_closing():
            return
        if is_behind:
            if part == "body":
                self.pipeline.popleft()
            self._later, self.refusal = error, None
            self._arm()
            self.flow.pause_reading()
            return
        self.refusal = error
        cycle = self.cycle
        if part != "body" or not cycle.response_started:
            self._answer(error)
        elif cycle.response_complete:
            self._linger()
        else:
            self.transport.abort()

    def _is_behind(self) -> bool:
        """Tell whether the request that is being read, or would come next, is not the one whose answer is due."""
        if self._awaits == "body":
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _answer(self, error: GatewayError) -> None:
        """Write the refusal of a request, and close the connection."""
        self.refusal = error
        self.refused(checks.reason_of(error))
        url = getattr(self, "url", b"")
        self.transport.write(checks.refusal(error, self.cors(dict(self.headers or ())), url))
        self._linger()

    def finish(self) -> None:
        """Close the connection after the answer that is due, of whose request's body something may still come."""
        if self._awaits == "body" and not self.pipeline:
            self._linger()
        else:
            self.transport.close()

    def end_tunnel(self) -> None:
        """Close the connection of a tunnel after what was written."""
        self.tunnel = None
        if not self.transport.is_closing():
            self._linger()

    def _linger(self) -> None:
        """Close the connection after what was written, although the client may still be sending."""
        transport, connections = self.transport, self.connections
        is_crowded = len(connections) > self.limits.connections + SPARE
        self._let_go()
        self.connection_lost(ConnectionAbortedError())
        if is_crowded:
            transport.close()
            return
        linger(transport, connections)  # type: ignore[arg-type]  # it may hold anything with a `shutdown`

    def _framing(self) -> bytes:
        """Return the header line that determines the length of the body; empty if there is none."""
        for name, value in self.headers:
            if name in (b"content-length", b"transfer-encoding"):
                return name + b": " + value
        return b""

    def _feed(self, data: bytes) -> None:
        """Parse `data`, ignoring any `Upgrade` header, which Java's HTTP client sends with every request.

        After this header the parser leaves the rest to the new protocol. But the rest is the body or the next request,
        so a new parser reads it; for a body it is given a head first.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                if self._awaits == "body":
                    data = b"POST / HTTP/1.1\r\n" + self._framing() + b"\r\n\r\n" + data

    def _is_idle(self) -> bool:
        """Tell whether the answer has been sent completely and no byte of a further request has been read."""
        return (
            not self._awaits
            and not self.pipeline
            and self.cycle.response_complete
            and self.stall is None
            and not self.flow.read_paused
        )

    def _go_back(self, door: Returned) -> None:
        """Return the connection to the front door, because the next request may be a plain one."""
        self.door = None
        self._unset_keepalive_if_required()
        self._let_go()
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]  # it refers to this object: avoid a cycle
        door.take_back()

    def _let_go(self) -> None:
        """Stop every timer, and leave no circle of references."""
        for timer in (self._deadline, self.stall, self._glance):
            if timer is not None:
                timer.cancel()
        self._deadline = self.stall = self._glance = None
        if self.cycle is not None:
            self.cycle.transport = self.transport

    # checks and deadlines

    def _check(self, error: GatewayError | None) -> None:
        """Refuse the request, from within the parser, if there is an error."""
        if error is not None:
            self.refusal = error
            raise error

    def _count(self, size: int) -> None:
        """Count `size` bytes that were read."""
        self._read_bytes += size
        error = checks.framing_fault(self._awaits, self._read_bytes, self._body_bytes, self.limits)
        if error is not None:
            self.refusal = error
            self.send_400_response("")

    def _look(self) -> None:
        """Check whether the client is still connected. While reading is paused, no event tells that it has left."""
        self._glance = None
        if not self.flow.read_paused or self.transport.is_closing():
            return
        if has_left(self.transport):
            self.transport.abort()
        else:
            self._glance = self.loop.call_later(GLANCE, self._look)

    def _rest(self) -> None:
        """Restart the keep-alive timer after stray line ends, or the rest of a request that was answered early."""
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expire(self) -> None:
        """Start the time limit within which the client must read what was written, unless it is running."""
        if self.stall is None:
            self.stall = Stall(self.loop, self.transport, self.limits.write_seconds)

    def _arm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._armed = "" if self._is_behind() else self._awaits
        if self._armed:
            seconds = self.limits.header_seconds if self._armed == "headers" else self._body_seconds
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._awaits == "headers" and self.headers is None:
            self.transport.close()
        else:
            message = f"the request's {self._awaits} did not arrive in time"
            self.refusal = GatewayError(Own.SLOW_CLIENT, message)
            self.send_400_response("")


def protocol_with(limits: Limits, **given: Callable[..., Any]) -> type[GatewayProtocol]:
    """Return the protocol class for uvicorn, with these limits. `cors` and `refused` are as in `GatewayProtocol`."""
    functions = {name: staticmethod(each) for name, each in given.items()}
    return type("LimitedProtocol", (GatewayProtocol,), {"limits": limits, **functions})

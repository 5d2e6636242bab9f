"""The full protocol: uvicorn's HTTP/1.1 protocol with the additional checks that a public server needs.

Rules, all applied before any application code runs:
- Header size, header count and body size are limited. Head and body must each arrive within an absolute time limit,
  which bytes that trickle in do not extend.
- A request has exactly one `Host`, at most one of `Content-Length` and `Transfer-Encoding` and that only once, and no
  transfer coding but `chunked`. Trailers are read and dropped. Chunk extensions and unfinished lines are limited too.
- A request that breaks a rule is answered with OpenAI's error format, and the connection is closed.
- An `Upgrade` header is ignored; the request is served as it is.
- The client must read what was written within a time limit, on a connection that is being closed too.
- `listener` is set while an answer is written directly to the transport. It is told when the client's socket buffer is
  full, has room again, or the client is gone, even while reading is paused.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import GatewayError, Own
from gateway.wire.http1 import STATUS_LINES, has_left

SCOPE_KEY = "gateway.cycle"
"""The key of a request's `Cycle` in its ASGI scope."""

FRAMING = 256 << 10
"""Most bytes besides head and body, such as chunk sizes and extensions. Each byte of the body allows eight more."""
GLANCE = 1.0
"""Seconds between checks whether a client is still connected while reading from it is paused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may send and how slowly, in bytes and seconds."""

    body: int = 10 << 20
    headers: int = 32 << 10
    header_count: int = 100
    url: int = 8 << 10
    connections: int = 10_000
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 60.0


class Returned(Protocol):
    """The front door that a connection came through, which takes it back when it is idle."""

    def take_back(self) -> None:
        """Own an idle connection again; no bytes of a further request have been read."""


class Listener(Protocol):
    """The receiver of events of the client's socket while a request is answered."""

    def pause(self) -> None:
        """Stop writing, because the socket buffer is full."""

    def resume(self) -> None:
        """Continue writing, because the socket buffer has room again."""

    def lost(self) -> None:
        """React to the client having left."""


class Cycle(NamedTuple):
    """One request on one connection. Pipelined requests on a connection each have their own."""

    protocol: GatewayProtocol
    cycle: Any
    """uvicorn's RequestResponseCycle."""


class GatewayProtocol(HttpToolsProtocol):
    """One client connection, served by uvicorn with additional checks."""

    limits = Limits()
    listener: Listener | None = None
    door: Returned | None = None
    """The front door that gets the connection back when it is idle."""
    refusal: GatewayError | None = None
    """The rule that the client broke, if the connection is being closed for that."""
    _awaits: str = "headers"
    """The part of the current request that is being read: headers, body, or empty if none is."""
    _armed: str = ""
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _glance: asyncio.TimerHandle | None = None
    _read_bytes = 0
    """Bytes read of the part that is being read, framing included."""
    _header_bytes = 0
    _hosts = 0
    _lengths = 0
    """The number of headers that state the length of the body."""
    _body_bytes = 0

    def date_line(self) -> bytes:
        """Return the current `Date` header line."""
        return b"date: " + self.server_state.default_headers[0][1] + b"\r\n"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self.refusal = GatewayError(Own.NO_BACKEND, "too many connections", code="overloaded")
            self.send_400_response("")
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._unset_keepalive_if_required()
        if self.listener is not None:
            self.listener.lost()
            self.listener = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._awaits:
            self._count(len(data))
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
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.transport.is_closing():
            self._expire()
        if self.listener is not None:
            self.listener.resume()

    # uvicorn's own callbacks

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expire()
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
            self._refuse(Own.URL_TOO_LONG, f"the URL is longer than {self.limits.url} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self.limits.headers or len(self.headers) >= self.limits.header_count:
            self._refuse(
                Own.HEADERS_TOO_LARGE,
                f"more than {self.limits.header_count} headers or {self.limits.headers} bytes of them",
            )
        if self._awaits == "body":
            return
        # The same as uvicorn's own method, without the cost of one more call per header.
        name = name.lower()
        if name in _CHECKED:
            self._check_header(name, value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._awaits == "body":
            return
        self._check_head()
        super().on_headers_complete()
        self.scope[SCOPE_KEY] = Cycle(self, self.cycle)  # type: ignore[literal-required]
        self._awaits = "body"
        self._read_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body:
            self._too_large()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return
        super().on_message_complete()
        self._awaits = ""

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request or one that broke a limit with `refusal`, and close the connection."""
        error = self.refusal = self.refusal or GatewayError(
            Own.INVALID, "the request is not valid HTTP/1.1", code="invalid_http"
        )
        part, self._awaits = self._awaits, ""
        if self.transport.is_closing():
            return
        if self._unanswered(part):
            body = error.body()
            head = [STATUS_LINES[error.status], b"content-type: application/json\r\nconnection: close\r\n"]
            head += [name + b": " + value + b"\r\n" for name, value in error.headers()]
            self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))
            self.transport.close()
            self._expire()
        else:
            self.transport.abort()

    def _unanswered(self, part: str) -> bool:
        """Tell whether a refusal while reading `part` can be sent: not in the middle of or after another answer."""
        cycle = self.cycle
        if cycle is None:
            return True
        if cycle.response_complete:
            return part != "body"
        return not self.pipeline and not cycle.response_started

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
            and self._stall is None
            and not self.flow.read_paused
        )

    def _go_back(self, door: Returned) -> None:
        """Return the connection to the front door, because the next request may be a plain one."""
        self.door = None
        self._unset_keepalive_if_required()
        self._stop_timers()
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]  # it refers to this object: avoid a reference cycle
        door.take_back()

    def _stop_timers(self) -> None:
        for timer in (self._deadline, self._stall, self._glance):
            if timer is not None:
                timer.cancel()
        self._deadline = self._stall = self._glance = None

    # checks and deadlines

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"expect":
            if value.lower() != b"100-continue":
                self._refuse(Own.EXPECTATION, "only `Expect: 100-continue` is understood")
            self.expect_100_continue = True
        else:
            self._lengths += 1
            if name == b"content-length" and int(value) > self.limits.body:
                self._too_large()
            if name == b"transfer-encoding" and _CODED.fullmatch(value):
                message = "no transfer coding but 'chunked' is understood"
                self._refuse(Own.INVALID, message, code="unsupported_coding")

    def _check_head(self) -> None:
        if self._hosts != 1 and self.parser.get_http_version() != "1.0":
            self._refuse(Own.INVALID, "a request needs exactly one Host header", code="invalid_host")
        if self._lengths > 1:
            self._refuse(Own.INVALID, "the length of the body is given twice", code="invalid_http")

    def _too_large(self) -> None:
        self._refuse(Own.TOO_LARGE, f"the request body is larger than {self.limits.body} bytes")

    def _refuse(self, kind: Own, message: str, code: str | None = None) -> None:
        self.refusal = GatewayError(kind, message, code=code)
        raise self.refusal

    def _count(self, size: int) -> None:
        """Count `size` bytes read, to limit what the parser skips (chunk extensions) or buffers (unfinished lines)."""
        self._read_bytes += size
        if self._awaits == "headers":
            if self._read_bytes > self.limits.url + self.limits.headers + FRAMING:
                self.refusal = GatewayError(Own.HEADERS_TOO_LARGE, "the request's head is too large")
                self.send_400_response("")
        elif self._read_bytes > FRAMING + 9 * self._body_bytes:
            message = "there is too much between the chunks of the body"
            self.refusal = GatewayError(Own.INVALID, message, code="invalid_http")
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
        if self._stall is None:
            self._stall = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _arm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._armed = self._awaits
        if self._awaits:
            limits = self.limits
            seconds = limits.header_seconds if self._awaits == "headers" else limits.body_seconds
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._awaits == "headers" and self.headers is None:
            self.transport.close()
        else:
            self.refusal = GatewayError(
                Own.SLOW_CLIENT, f"the request's {self._awaits} did not arrive in time"
            )
            self.send_400_response("")


_CHECKED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})

_CODED = re.compile(rb".*,[ \t]*chunked", re.IGNORECASE)
"""Another coding before `chunked`. Requests whose last coding is not `chunked` are refused by the parser."""


def protocol_with(limits: Limits) -> type[GatewayProtocol]:
    """Return the protocol class for uvicorn, with these limits."""
    return type("LimitedProtocol", (GatewayProtocol,), {"limits": limits})

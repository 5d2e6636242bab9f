"""The server side of the wire: uvicorn's HTTP/1.1 protocol with the checks a gateway's front door needs.

Rules, all before any application code runs:
- A header block has a largest size and count, a body a largest size, and each must arrive within an absolute deadline,
  however steadily it drips.
- Exactly one `Host`; never `Content-Length` together with `Transfer-Encoding`; no second `Content-Length`; no transfer
  coding but `chunked`. Trailers are read and dropped: they are no headers. What else frames a body (extensions of
  chunks, a line without end) has a limit too.
- What breaks a rule gets OpenAI's error shape and a closed connection.
- An offer to upgrade the connection is declined by not answering it; the request is served as it is.
- What was written must be taken in time, on a connection that is being closed too.
- `listener`, set while a request is answered directly, hears when the client's socket fills, drains or goes away; also
  while nothing is read from it, because more than the next request has come already.
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
"""Where a request's scope holds its `Cycle`."""


FRAMING = 256 << 10
"""Bytes a request may have beyond its head and its body: what is between chunks, or the beginning of a line. Each byte
of a body may bring eight more."""
GLANCE = 1.0
"""Seconds between looks at a client's connection while nothing is read from it."""


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


class Listener(Protocol):
    """Who is told what happens to the client's socket while a request is answered."""

    def pause(self) -> None:
        """The socket is full."""

    def resume(self) -> None:
        """There is room again."""

    def lost(self) -> None:
        """The client left."""


class Cycle(NamedTuple):
    """One request on one connection; a pipelined request has an exchange of its own."""

    protocol: GatewayProtocol
    cycle: Any
    """uvicorn's RequestResponseCycle."""


class GatewayProtocol(HttpToolsProtocol):
    """One client connection."""

    limits = Limits()
    listener: Listener | None = None
    refusal: GatewayError | None = None
    """Why the gateway is closing the connection, if a rule was broken."""
    _awaits: str = "headers"
    """What is still to come of the request that is being read: headers, body or nothing."""
    _armed: str = ""
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _glance: asyncio.TimerHandle | None = None
    _read_bytes = 0
    """What was read of the part that is still to come, framing included."""
    _header_bytes = 0
    _hosts = 0
    _lengths = 0
    """Headers that say how long the body is."""
    _body_bytes = 0

    def date_line(self) -> bytes:
        """The `Date` header of this second."""
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
        for timer in (self._deadline, self._stall, self._glance):
            if timer is not None:
                timer.cancel()
        self._deadline = self._stall = self._glance = None
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

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expire()

    # httptools callbacks; what one raises ends in `send_400_response`. A head within a body is `_feed`'s.

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
        # What uvicorn does here, without the further call for each header of each request.
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
        """Answer what never became a request, or a request that broke a limit, and close."""
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
        """Whether a refusal while `part` of a request was read can be said: not within or behind another answer."""
        cycle = self.cycle
        if cycle is None:
            return True
        if cycle.response_complete:
            return part != "body"
        return not self.pipeline and not cycle.response_started

    def _framing(self) -> bytes:
        """The header line that says where the body ends; empty if there is none."""
        for name, value in self.headers:
            if name in (b"content-length", b"transfer-encoding"):
                return name + b": " + value
        return b""

    def _feed(self, data: bytes) -> None:
        """Parse. After an offer to upgrade the parser takes the rest for the new protocol's, but it is the body or the
        next request, and another parser reads it. (Java's HTTP client makes the offer with every request.)"""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                if self._awaits == "body":
                    data = b"POST / HTTP/1.1\r\n" + self._framing() + b"\r\n\r\n" + data

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
                self._refuse(Own.INVALID, message, code="unsupported_coding", status=501)

    def _check_head(self) -> None:
        if self._hosts != 1 and self.parser.get_http_version() != "1.0":
            self._refuse(Own.INVALID, "a request needs exactly one Host header", code="invalid_host")
        if self._lengths > 1:
            self._refuse(Own.INVALID, "the length of the body is given twice", code="invalid_http")

    def _too_large(self) -> None:
        self._refuse(Own.TOO_LARGE, f"the request body is larger than {self.limits.body} bytes")

    def _refuse(self, kind: Own, message: str, code: str | None = None, status: int | None = None) -> None:
        self.refusal = GatewayError(kind, message, code=code, status=status)
        raise self.refusal

    def _count(self, size: int) -> None:
        """The parser skips the extensions of chunks, and keeps a line until its end: neither goes on for ever."""
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
        """Nothing is read, so the end of what the client sends goes unnoticed; the kernel knows of it."""
        self._glance = None
        if not self.flow.read_paused or self.transport.is_closing():
            return
        if has_left(self.transport):
            self.transport.abort()
        else:
            self._glance = self.loop.call_later(GLANCE, self._look)

    def _rest(self) -> None:
        """What came was stray line ends, or the rest of a request that was answered early: be as idle as before."""
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expire(self) -> None:
        """From now on the client has so long to take what was written."""
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
"""Chunks of something that is coded in turn. Where the chunks are not the last coding, it is no HTTP at all."""


def protocol_with(limits: Limits) -> type[GatewayProtocol]:
    """The protocol class for uvicorn, with these limits."""
    return type("LimitedProtocol", (GatewayProtocol,), {"limits": limits})

"""One HTTP/1.1 connection to a backend, which carries requests and their answers one after the other.

Rules:
- A connection carries one exchange at a time and reports it to a `Sink` by plain calls in this order: `on_sent` if the
  request was not sent at once, one `on_head`, any number of `on_body` or `on_chunk`, then `on_end` or `on_lost` once.
- `on_end` is called after the parser has returned from the read that ended the answer, so it may start the next
  exchange. Bytes that follow an answer close the connection, and mark it as one of an engine that strays.
- A read that is exactly one chunk of a chunked body bypasses the parser.
- A connection has one timer for all its exchanges. It is set again only if it would fire too late, and re-armed if it
  fires too early, so most deadlines move without touching it.
- Requests ask for `accept-encoding: identity`. A compressed answer is refused, since it could expand without limit.
- Trailers are read and dropped: nothing after a body may change what the head said.
"""

from __future__ import annotations

import asyncio
import logging
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Protocol, cast

import httptools
from mypy_extensions import mypyc_attr

from backends.base import Failure, Headers, Kind
from gateway.wire.chunks import payload_of_one

log = logging.getLogger("gateway.upstream")

MAX_HEAD: Final = 64 * 1024
"""Most bytes of an answer's head, or of its trailers."""
MAX_INTERIM: Final = 10
"""Most 1xx answers before the final one."""
NEVER: Final = 1 << 62
"""A time that is never reached, in nanoseconds."""
EARLY: Final = 1_000_000
"""Nanoseconds by which a timer may fire too early, because the event loop's clock counts milliseconds."""
LF: Final = 10


@mypyc_attr(allow_interpreted_subclasses=True)
class Sink(ABC):
    """The receiver of what happens in an exchange."""

    __slots__ = ()

    @abstractmethod
    def on_sent(self) -> None:
        """React to the rest of a request having been sent, if the socket did not take all of it at once."""

    @abstractmethod
    def on_head(self, status: int, headers: Headers) -> None:
        """Receive the status and headers of the answer."""

    @abstractmethod
    def on_body(self, data: bytes) -> None:
        """Receive a part of the body, without its transfer coding."""

    def on_chunk(self, framed: bytes, start: int, end: int) -> None:
        """Receive a part of the body, `framed[start:end]`; `framed` is that part as one complete chunk."""
        self.on_body(framed[start:end])

    @abstractmethod
    def on_end(self) -> None:
        """React to the answer being complete."""

    @abstractmethod
    def on_lost(self, failure: Failure) -> None:
        """React to the answer never becoming complete, because of `failure`."""


class Unacceptable(ValueError):
    """Raised within the parser: an answer is HTTP, but not such as the gateway takes."""


class Alarm(Protocol):
    """The receiver of a connection's timer."""

    def ring(self) -> None: ...


class Connection:
    """One connection to a backend, used as an `asyncio.Protocol`. `on_close` is called once when it is closed."""

    __slots__ = (
        "_alarm",
        "_between_chunks",
        "_complete",
        "_due",
        "_eof_ends",
        "_fed",
        "_head",
        "_headers",
        "_interim",
        "_parser",
        "_poll",
        "_sink",
        "_size",
        "_timer",
        "_timer_due",
        "_transport",
        "answered",
        "idle_since",
        "loop",
        "on_close",
        "paused",
        "reused",
        "status",
        "strayed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, on_close: Callable[[Connection], None]) -> None:
        self.on_close: Callable[[Connection], None] = on_close
        self.reused: bool = False
        self.answered: bool = False
        self.paused: bool = False
        self.idle_since: float = 0.0
        """The loop time at which it was given back to its pool."""
        self.strayed: bool = False
        """Whether something came on it that was no part of an answer asked for."""
        self.status: int = 0
        self.loop: asyncio.AbstractEventLoop = loop
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._sink: Sink | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: int = 0
        self._size: int = 0
        self._interim: int = 0
        self._fed: bool = False
        self._eof_ends: bool = False
        self._complete: bool = False
        self._between_chunks: bool = False
        self._alarm: Alarm | None = None
        self._due: int = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: int = NEVER

    def send(self, data: bytes, sink: Sink) -> None:
        """Start an exchange: write the complete request `data`, and report the answer to `sink`."""
        assert self._transport is not None and self._sink is None
        self._sink = sink
        self.answered = self._between_chunks = self._complete = False
        self.status = self._head = self._size = self._interim = 0
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._transport.write(data)

    @property
    def usable(self) -> bool:
        """Tell whether the connection is open and free for another exchange."""
        return self._transport is not None and not self._transport.is_closing() and self._sink is None

    @property
    def is_open(self) -> bool:
        """Tell whether the connection has its file descriptor still."""
        return self._transport is not None

    def has_input(self) -> bool:
        """Tell whether there is anything to read that the event loop has not reported yet, the end included.

        Only for a connection that is `usable`: the descriptor of a closed one may be another's.
        """
        return self._poll is not None and bool(self._poll.poll(0))

    @property
    def flushed(self) -> bool:
        """Tell whether the socket has taken the whole request."""
        return self._transport is None or self._transport.get_write_buffer_size() == 0

    def pause(self) -> None:
        """Stop reading, because the receiver behind the sink cannot keep up."""
        self.paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Continue reading."""
        self.paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection at once without telling the sink. The engine notices it and can stop its work."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    def abort(self) -> None:
        """Close the connection at once; if the answer is not complete, `on_lost` is called."""
        if self._transport is not None:
            self._transport.abort()

    def wake(self, alarm: Alarm | None, due: int) -> None:
        """Call `alarm.ring` at `due`, in nanoseconds of `perf_counter_ns`. None cancels the alarm set before."""
        self._alarm = alarm
        self._due = due
        if alarm is not None and due < self._timer_due and self._transport is not None:
            self._set_timer(due)

    def _set_timer(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_later(max(0.0, (due - perf_counter_ns()) / 1e9), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_due = NEVER
        alarm = self._alarm
        if alarm is None:
            return
        if perf_counter_ns() < self._due - EARLY:
            self._set_timer(self._due)
        else:
            alarm.ring()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        # `resume_writing` is then called when the whole request has been sent: the engine's own time begins there.
        self._transport.set_write_buffer_limits(0)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            self._poll = select.poll()
            self._poll.register(connection.fileno(), select.POLLIN)

    def pause_writing(self) -> None:
        """Do nothing: `flushed` reads the transport's state instead."""

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.on_sent()

    def eof_received(self) -> bool:
        """Close the transport, as the result False makes asyncio do."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._parser = None  # it knows this object in turn
        self._alarm = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink, self._sink = self._sink, None
        self.on_close(self)
        if sink is None:
            return
        if self._eof_ends and exc is None:
            sink.on_end()
        else:
            sink.on_lost(
                Failure(Kind.RESET, "the engine closed the connection", facts=str(exc or "end of file"))
            )

    def data_received(self, data: bytes) -> None:
        sink, parser = self._sink, self._parser
        if sink is None or parser is None:
            # Bytes outside of any exchange. The next one must never take them for its answer.
            self._stray()
            return
        self.answered = True
        if self._between_chunks and (start := payload_of_one(data)) > 0:
            try:
                sink.on_chunk(data, start, len(data) - 2)
            except Exception as error:  # a bug of an adapter: fail the answer, as the parser would
                log.exception("a part of an answer could not be read")
                self._garbled(type(error).__name__)
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._garbled(_why(error))
        else:
            if self._fed:
                self._fed = False
                self._head = 0
            else:
                self._count_lines(data)
            if data[-1] != LF:
                # The read ended within a chunk, or within the line that begins one.
                self._between_chunks = False
        if self._complete:
            self._end(sink)

    def _switch(self, rest: bytes) -> None:
        """Refuse an engine that switches protocols; `rest` is what follows its answer."""
        self._garbled("it switched protocols")

    def _end(self, sink: Sink) -> None:
        """Report that the answer is complete, now that the parser has returned."""
        self._complete = False
        if self._sink is sink:
            self._sink = None
            sink.on_end()

    def _count_lines(self, data: bytes) -> None:
        """Count bytes without content: the parser buffers an unfinished line, and an endless one would fill memory."""
        self._head += len(data)
        if self._head > MAX_HEAD:
            self._garbled("its body's frame is too large" if self.status else "its head is too large")

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._headers = []
        self._eof_ends = False
        if self._complete:
            # A second answer to one request: the connection can no longer be trusted.
            self._stray()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            return
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise Unacceptable("its headers are too large")
        if not self.status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise Unacceptable("status 101, or too many interim answers")
            return
        self.status = status
        self._size = self._head = 0
        framed = False
        for name, value in self._headers:
            if name in _FRAMING:
                framed = True
            if name in _CODING and value.lower() not in _PLAIN:
                raise Unacceptable("it is compressed, though that was not asked for")
        self._eof_ends = not framed and status not in (204, 304)
        if self._sink is not None:
            self._sink.on_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._fed = True
        if self._sink is not None and not self._complete:
            self._sink.on_body(body)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        if not self.status or self._sink is None or self._complete:
            return
        assert self._parser is not None
        self._complete = True
        self._between_chunks = False
        if not self._parser.should_keep_alive():
            self.abort()

    def _stray(self) -> None:
        """Close the connection, because something came on it that nobody asked for."""
        if self._transport is not None and not self._transport.is_closing():
            self.strayed = True
            self._transport.abort()

    def _garbled(self, facts: str) -> None:
        if self._complete:
            # The fault is in bytes that follow the answer, which is itself sound.
            self._stray()
            return
        sink = self._sink
        self.close()
        if sink is not None:
            message = "the engine's answer is not HTTP the gateway can read"
            sink.on_lost(Failure(Kind.GARBLED, message, facts=facts))


def _why(error: httptools.HttpParserError) -> str:
    """Return why an answer is not acceptable, without a word of it."""
    cause = error.__context__
    if cause is None:
        return str(error)
    return str(cause) if isinstance(cause, Unacceptable) else type(cause).__name__


_FRAMING = (b"content-length", b"transfer-encoding")
_CODING = (b"content-encoding", b"transfer-encoding")
_PLAIN = (b"", b"identity", b"chunked")

"""The server's end of one connection: parse requests, send answers step by step, notice that the client leaves.

Rules:
- One answer at a time; pipelined requests wait for their turn.
- Nothing is sent while the client's socket is full.
- Reading never stops, so a client that leaves is seen in every phase.
- An offer to upgrade, which Java's HTTP client makes with every request, is declined by answering as if it were absent.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, cast

import httptools

from gateway.fake.journal import End, Exchange, Journal
from gateway.fake.steps import Step

LARGEST_BODY = 64 << 20
_AT_ONCE = 16
"""Steps played in one turn of the event loop."""
_FLUSH_TRIES = 1000


@dataclass(slots=True)
class Request:
    """A request as it was read."""

    method: str
    path: str
    keep_alive: bool
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Owner(Protocol):
    """What a connection needs of its engine."""

    journal: Journal

    def opened(self, connection: Connection) -> Iterator[Step] | None: ...
    def handle(self, connection: Connection, request: Request) -> None: ...
    def left(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def keeps(self, connection: Connection) -> float | None: ...


class Connection(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._journal = owner.journal
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._greeting = False
        self._early = b""
        self._pending: deque[Request] = deque()
        self._method = ""
        self._keeps = True
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._reads_body = False
        self._steps: Iterator[Step] | None = None
        self._due: Step | None = None
        self._timer: asyncio.Handle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._paused = False
        self._ended = False
        self.keep = True
        self._jitter: Callable[[], float] | None = None
        self.number = 0
        self.answered = 0
        self.exchange: Exchange | None = None

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        steps = self._owner.opened(self)
        if steps is None:
            self._rest()
        else:
            self._greeting = True
            self.play(steps)

    def data_received(self, data: bytes) -> None:
        if self._greeting:
            self._early += data
        else:
            self._feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timers()
        self._steps = None
        self._pending.clear()
        self._settle("cut" if self._ended else "aborted")
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._steps is not None and self._timer is None and self._due is None:
            self._tick()

    # Called by httptools

    def on_message_begin(self) -> None:
        if self._reads_body:
            return
        self._url, self._headers, self._body, self._size = b"", {}, [], 0

    def on_url(self, part: bytes) -> None:
        if not self._reads_body:
            self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._reads_body:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._reads_body:
            return
        self._reads_body = True
        self._method = self._parser.get_method().decode("latin-1")
        self._keeps = bool(self._parser.should_keep_alive())
        if self._headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LARGEST_BODY:
            raise ValueError("the body is too large")
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade() and self._framing():
            return
        self._reads_body = False
        path = self._url.decode("latin-1").partition("?")[0]
        self._pending.append(Request(self._method, path, self._keeps, self._headers, b"".join(self._body)))

    def _framing(self) -> str:
        """Return the header line that says how long the body is; empty if there is none."""
        for name in ("transfer-encoding", "content-length"):
            if name in self._headers:
                return f"{name}: {self._headers[name]}"
        return ""

    def _parse(self, data: bytes) -> None:
        """Parse `data`. Raises httptools.HttpParserError.

        After an `Upgrade` header the parser leaves the rest to the new protocol. But it is the body or the next
        request, so a new parser reads it; for a body it is given a head first, whose events are ignored.
        """
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                if self._reads_body:
                    data = f"POST / HTTP/1.1\r\n{self._framing()}\r\n\r\n".encode("latin-1") + data

    def _feed(self, data: bytes) -> None:
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.end()
            return
        self._next_request()

    def _next_request(self) -> None:
        if self._pending and self._steps is None and self.exchange is None and not self._ended:
            if self._idle:
                self._idle.cancel()
                self._idle = None
            request = self._pending.popleft()
            self.keep = request.keep_alive
            self._owner.handle(self, request)

    # Sending an answer

    def play(self, steps: Iterator[Step], jitter: float = 0.0, seed: str = "") -> None:
        """Send an answer. With `jitter`, vary every wait by up to that share, both ways."""
        random = Random(seed).uniform if jitter else None
        self._jitter = (lambda: random(1 - jitter, 1 + jitter)) if random else None
        self._steps = steps
        self._due = None
        self._tick()

    def _tick(self) -> None:
        """Send the step that is due and those after it that need no wait; then set the timer for the next."""
        self._timer = None
        steps, step = self._steps, self._due
        self._due = None
        if steps is None:
            return
        for _ in range(_AT_ONCE):
            if step is not None and not self._send(step):
                return
            if self._paused:
                return
            step = next(steps, None)
            if step is None:
                self._played()
                return
            if step.after:
                self._due = step
                if not math.isinf(step.after):
                    wait = step.after * self._jitter() if self._jitter else step.after
                    self._timer = self._loop.call_later(wait, self._tick)
                return
        self._due = step
        self._timer = self._loop.call_soon(self._tick)

    def _send(self, step: Step) -> bool:
        """Send one step; return whether another may follow."""
        if step.data:
            self.transport.write(step.data)
            exchange = self.exchange
            if exchange is not None:
                exchange.bytes_sent += len(step.data)
                exchange.events += step.events
                exchange.tokens += step.tokens
                exchange.phase = "streaming" if exchange.events else "headers"
                self._journal.totals.tokens += step.tokens
                self._journal.changed()
        if not step.last:
            return True
        if step.last == "over":
            self._settle("finished")
        self.end(reset=step.last == "reset")
        return False

    def _played(self) -> None:
        self._steps = None
        if self._greeting:
            self._greeting = False
            early, self._early = self._early, b""
            self._rest()
            if early:
                self._feed(early)
            return
        self._settle("finished")
        self.answered += 1
        if not (self.keep and self._rest()):
            self.end()
        elif self._pending:
            self._loop.call_soon(self._next_request)

    def _settle(self, outcome: End) -> None:
        """Record how the exchange that was under way ended."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._owner.left(self)
            self._journal.end(exchange, outcome)

    def _rest(self) -> bool:
        """Wait for the next request as long as the script allows; return False if it allows no further request."""
        keeps = self._owner.keeps(self)
        if keeps is None:
            return True
        if keeps > 0:
            self._idle = self._loop.call_later(keeps, self.end)
        return keeps > 0

    # Closing the connection

    def end(self, reset: bool = False) -> None:
        """Close the connection, with FIN or RST, once everything written is sent."""
        self._ended = True
        self._stop_timers()
        self._steps = None
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._timer = self._loop.call_soon(self._abort, _FLUSH_TRIES)
        else:
            self.transport.close()

    def _abort(self, tries: int) -> None:
        if tries and self.transport.get_write_buffer_size():
            self._timer = self._loop.call_later(0.001, self._abort, tries - 1)
        else:
            self.transport.abort()

    def crash(self) -> None:
        """Reset the connection at once and drop what is still to be sent."""
        self._ended = True
        self.end(reset=True)
        self._stop_timers()
        self.transport.abort()

    def _stop_timers(self) -> None:
        for handle in (self._timer, self._idle):
            if handle is not None:
                handle.cancel()
        self._timer = self._idle = None

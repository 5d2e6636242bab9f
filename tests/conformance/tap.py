"""A proxy between the gateway and a real engine: it passes on every byte, and sees which requests are under way.

Rules:
- It adds nothing. When one side closes, so does the other, at once; but while an answer is held back, its engine may
  close as it likes.
- It counts POST requests but for `PROBES`. A connection carries one request at a time.
- With `hold` a stream stops after its first events, any other answer before its first byte: the demo model is done
  before anyone could leave it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

PROBES = (b"/v2/repository/index",)
"""Paths that are asked by POST and are no requests: Triton's list of models."""


def is_request(head: bytes) -> bool:
    """Return whether these first bytes are those of a client's request; anything else is a probe."""
    method, _, rest = head.partition(b" ")
    return method == b"POST" and rest.partition(b" ")[0] not in PROBES


class Counter:
    """How many requests are under way; a `tests.conformance.stage.Watch`."""

    def __init__(self) -> None:
        self._open = 0
        self._changed = asyncio.Event()

    @property
    def busy(self) -> bool:
        return self._open > 0

    async def begun(self) -> None:
        while not self.busy:
            await self._change()

    async def let_go(self) -> None:
        while self.busy:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def count(self, by: int) -> None:
        self._open += by
        self._changed.set()


@dataclass
class Exchange:
    """One request and what was answered, as bytes."""

    request: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)

    @property
    def is_post(self) -> bool:
        return is_request(bytes(self.request))

    @property
    def beginning(self) -> int:
        """Where the fourth event of a stream ends; 0 for an answer that is none."""
        head, _, body = bytes(self.answer).partition(b"\r\n\r\n")
        if b"text/event-stream" not in head:
            return 0
        events = body.split(b"\n\n", 4)
        return len(self.answer) - (len(events[4]) if len(events) > 4 else 0)

    @property
    def is_whole(self) -> bool:
        """The answer has come to its end, by its framing."""
        head, blank, body = bytes(self.answer).partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                return bool(blank) and len(body) >= int(value)
            if name == b"transfer-encoding":
                return body.endswith(b"0\r\n\r\n")
        return False


class Tap(Counter):
    """A running tap."""

    def __init__(self, engine_port: int, hold: bool) -> None:
        super().__init__()
        self.engine_port = engine_port
        self.hold = hold
        self.port = 0
        self.exchanges: list[Exchange] = []
        """In the order in which they began."""
        self.sides: set[Side] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Side(asyncio.Protocol):
    """One end of a connection through the tap."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.tap.sides.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.tap.sides.discard(self)
        if self.other is not None:
            self.other.close()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class EngineSide(Side):
    """The end at the engine."""

    def __init__(self, tap: Tap, gateway: GatewaySide) -> None:
        super().__init__(tap)
        self.other = self.gateway = gateway

    def data_received(self, data: bytes) -> None:
        self.gateway.answered(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.gateway.holds:
            self.closed = True
            self.tap.sides.discard(self)
        else:
            super().connection_lost(error)


class GatewaySide(Side):
    """The end at the gateway; connects to the engine when it is made itself."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap)
        self._early: list[bytes] = []
        self._exchange: Exchange | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.create_task(self._connect())

    @property
    def holds(self) -> bool:
        """The answer to a request is held back now."""
        return self.tap.hold and self._exchange is not None and self._exchange.is_post

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, side = await loop.create_connection(
                lambda: EngineSide(self.tap, self), "127.0.0.1", self.tap.engine_port
            )
        except OSError:
            self.close()
            return
        self.other = side
        if self.closed:
            side.close()
        side.write(b"".join(self._early))

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self._exchange = Exchange()
            self.tap.exchanges.append(self._exchange)
            self.tap.count(is_request(data))
        self._exchange.request += data
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def answered(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            before = len(exchange.answer)
            exchange.answer += data
            if self.holds:
                data = bytes(exchange.answer[before : exchange.beginning])
            elif exchange.is_whole:
                self._ended()
        self.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._ended()

    def _ended(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.tap.count(-exchange.is_post)


@contextlib.asynccontextmanager
async def tapping(engine_port: int, *, hold: bool = False) -> AsyncIterator[Tap]:
    """Yield a tap in front of an engine on a loopback port."""
    tap = Tap(engine_port, hold)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: GatewaySide(tap), "127.0.0.1", 0)
    tap.port = server.sockets[0].getsockname()[1]
    try:
        yield tap
    finally:
        server.close()
        for side in tuple(tap.sides):
            side.close()
        while tap.sides:  # noqa: ASYNC110 (each round of the loop closes some)
            await asyncio.sleep(0)

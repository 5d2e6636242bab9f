"""A body that is compressed or large is read in several turns of the loop, between which other requests go on.

Rules:
- What is compressed is decoded in a thread, and then taken like any other.
- What is large is first looked over in slices: its values are counted and its encoding is checked. What has too many
  values is refused before anything is made of it: reading it would take long, and fifty times its memory.
- What cannot be done in slices has a turn of its own: reading it, and sending it on.
- A request for a model that nobody knows waits here too, while the engines are asked for theirs.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from backends.surfaces.structure import Structure
from backends.surfaces.surface import InvalidRequest
from gateway.errors import GatewayError, Own
from gateway.fleet.discovery import Discovery
from gateway.request import Exchange
from gateway.telemetry.timeline import LOAD, ROUTE
from gateway.wire.codings import decoded

LARGE = 256 << 10
"""Bytes of a body up to which it is read at once."""
SLICE = 128 << 10
"""Bytes that are looked over in one turn."""


class Steps(ABC):
    """What is done with a body in several turns of the loop. It serves the request as long as it is done."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._task: asyncio.Task[None] | None = None

    def begin(self, body: bytes) -> None:
        """Start with a body."""
        self._exchange.work = self
        self._task = asyncio.get_running_loop().create_task(self._run(body))

    def interrupt(self, error: Exception) -> None:
        """End the request with `error`. See `gateway.request.Work`."""
        # A task that is cancelled before its first step never runs: it cannot be what ends the request.
        if self._task is not None:
            self._task.cancel()
        self._exchange.end(error)

    @abstractmethod
    async def _run(self, body: bytes) -> None:
        """Do it, and go on with the request."""


class Decoding(Steps):
    """The decoding of one request's compressed body, off the loop."""

    def __init__(self, exchange: Exchange, most: int, accept: Callable[[Exchange, bytes], None]) -> None:
        """Decode a body to at most `most` bytes; then `accept` it."""
        super().__init__(exchange)
        self._most = most
        self._accept = accept

    async def _run(self, body: bytes) -> None:
        exchange, loop = self._exchange, asyncio.get_running_loop()
        try:
            plain = await loop.run_in_executor(None, decoded, exchange.coding, body, self._most)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
        else:
            exchange.work = None
            self._accept(exchange, plain)


class Reading(Steps):
    """The reading of one request's large body."""

    def __init__(
        self,
        exchange: Exchange,
        most: int,
        read: Callable[[Exchange, bytes], None],
        route: Callable[[Exchange], None],
    ) -> None:
        """Look over a body of at most `most` values; then `read` it, which may raise, and `route` it."""
        super().__init__(exchange)
        self._most = most
        self._read = read
        self._route = route

    async def _run(self, body: bytes) -> None:
        exchange = self._exchange
        try:
            await self._look_over(body)
            self._read(exchange, body)
            await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
        else:
            exchange.work = None
            self._route(exchange)

    async def _look_over(self, body: bytes) -> None:
        structure = Structure()
        try:
            for start in range(0, len(body), SLICE):
                structure.feed(body[start : start + SLICE])
                if structure.values > self._most:
                    message = (
                        f"the request body has more than {self._most} values; "
                        "`server.limits.values` in the gateway's config says how many it may have"
                    )
                    raise GatewayError(Own.TOO_LARGE, message, code="too_many_values")
                await asyncio.sleep(0)
            structure.end()
        except UnicodeDecodeError:
            raise InvalidRequest("the body is not valid UTF-8", code="invalid_json") from None


class Asking(Steps):
    """The wait of one request until the engines have been asked for their models."""

    def __init__(self, exchange: Exchange, discovery: Discovery, route: Callable[[Exchange], None]) -> None:
        """Ask; then `route` the request."""
        super().__init__(exchange)
        self._discovery = discovery
        self._route = route

    async def _run(self, body: bytes) -> None:
        exchange = self._exchange
        exchange.timeline.mark(LOAD)
        try:
            await self._discovery.asked()
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
        else:
            exchange.timeline.mark(ROUTE)
            exchange.work = None
            self._route(exchange)

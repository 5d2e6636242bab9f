"""The heartbeat of a stream that has no content yet, for clients and proxies that close silent connections.

Rules:
- It is sent only if the config asks for it, because status 200 goes out before the outcome is known: a later failure
  can only be reported inside the stream.
- The headers are sent as soon as the request really waits: what is known at once, such as a full queue, is still told
  by its status. Then the client dialect's heartbeat is sent at each interval until the first content. It does not count
  as content, so another backend may still be tried.
- A request that waits for a slot is told where it stands: `queued 3 of 12, about 4 s`.
- Where the dialect has no event for it, a beat is a single line: go-openai and what is made of it end a stream after
  300 lines without data, empty ones included. One empty line ends them all, for readers that split at empty lines.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.request import Exchange

SOON: Final = 0.25
"""Seconds after which a request waits rather than being answered at once."""


_ALIVE: Final = "keep-alive"


class Heartbeat:
    """The heartbeat of one request, from its creation until `stop`."""

    __slots__ = ("_beaten", "_exchange", "_interval", "_timer")

    def __init__(self, exchange: Exchange, interval: float) -> None:
        """Send the headers of a stream soon, and a heartbeat every `interval` seconds after that."""
        self._exchange: Exchange | None = exchange
        self._interval: float = interval
        self._beaten: bool = False
        self._timer: asyncio.TimerHandle = exchange.way.loop.call_later(min(SOON, interval), self._begin)

    def stop(self) -> None:
        """Stop the heartbeat. May be called more than once."""
        exchange, self._exchange = self._exchange, None
        self._timer.cancel()
        if exchange is not None and self._beaten and exchange.surface.after_heartbeats:
            exchange.way.write(exchange.surface.after_heartbeats)

    def _begin(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.start(exchange.surface.stream_headers)
            self._timer = exchange.way.loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            standing = exchange.standing
            words = "" if standing is None else standing.words()
            exchange.way.write(exchange.surface.heartbeat(f"queued {words}" if words else _ALIVE))
            self._beaten = True
            self._timer = exchange.way.loop.call_later(self._interval, self._beat)

"""The heartbeat of a stream that has no content yet, for clients and proxies that close silent connections.

Rules:
- It is sent only if the config asks for it, because status 200 goes out before the outcome is known: a later failure
  can only be reported inside the stream.
- The headers are sent at once. Then the client dialect's heartbeat is sent at each interval until the first content. It
  does not count as content, so another backend may still be tried.
"""

from __future__ import annotations

import asyncio

from gateway.request import Exchange


class Heartbeat:
    """The heartbeat of one request, from its creation until `stop`."""

    __slots__ = ("_beat_bytes", "_exchange", "_interval", "_timer")

    def __init__(self, exchange: Exchange, interval: float) -> None:
        """Send the headers of a stream, and then a heartbeat every `interval` seconds."""
        self._exchange: Exchange | None = exchange
        self._interval: float = interval
        self._beat_bytes: bytes = exchange.surface.heartbeat
        exchange.start(exchange.surface.stream_headers)
        self._timer: asyncio.TimerHandle = exchange.way.loop.call_later(interval, self._beat)

    def stop(self) -> None:
        """Stop the heartbeat. May be called more than once."""
        self._exchange = None
        self._timer.cancel()

    def _beat(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.way.write(self._beat_bytes)
            self._timer = exchange.way.loop.call_later(self._interval, self._beat)

"""Signs of life while a stream has nothing to say yet: for clients and proxies that give up on silence.

Rules:
- On request of the config only, since it answers before anything is known: later failures can only come in the stream.
- The headers go out at once, then what the client's dialect has for it at each beat, until the first content. That is
  no content: another backend may still take over.
"""

from __future__ import annotations

import asyncio

from gateway.request import Exchange


class Heartbeat:
    """Beats for one request from its creation until `stop`."""

    __slots__ = ("_beat_bytes", "_exchange", "_interval", "_timer")

    def __init__(self, exchange: Exchange, interval: float) -> None:
        """Send the headers of a stream, then beat every `interval` seconds."""
        self._exchange: Exchange | None = exchange
        self._interval: float = interval
        self._beat_bytes: bytes = exchange.surface.heartbeat
        exchange.start(exchange.surface.stream_headers)
        self._timer: asyncio.TimerHandle = exchange.way.loop.call_later(interval, self._beat)

    def stop(self) -> None:
        """Beat no more. May be called more than once."""
        self._exchange = None
        self._timer.cancel()

    def _beat(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.way.write(self._beat_bytes)
            self._timer = exchange.way.loop.call_later(self._interval, self._beat)

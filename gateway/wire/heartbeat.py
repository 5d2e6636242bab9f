"""Signs of life while a stream has nothing to say yet: for clients and proxies that give up on silence.

Rules:
- On request of the config only, since it answers before anything is known: later failures can only come in the stream.
- The headers go out at once, then an SSE comment at each beat, until the first content. Comments are no content:
  another backend may still take over.
"""

from __future__ import annotations

import asyncio

from backends.base import Headers
from gateway.wire.downstream import Downstream
from gateway.wire.relay import STREAM_HEADERS

COMMENT = b": keep-alive\n\n"


class Heartbeat:
    """Beats for one request from its creation until `stop`."""

    __slots__ = ("_downstream", "_interval", "_loop", "_timer")

    def __init__(self, downstream: Downstream, interval: float, headers: Headers) -> None:
        """`interval` in seconds; `headers` go out beside those of a stream."""
        self._downstream = downstream
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        downstream.start(200, [*STREAM_HEADERS, *headers])
        self._timer = self._loop.call_later(interval, self._beat)

    def stop(self) -> None:
        """No more beats. May be called more than once."""
        self._timer.cancel()

    def _beat(self) -> None:
        self._downstream.write(COMMENT)
        self._timer = self._loop.call_later(self._interval, self._beat)

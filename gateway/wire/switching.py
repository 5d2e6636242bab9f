"""A connection to an engine that may switch protocols, to a WebSocket; and then carries bytes.

Rules:
- Until the switch it is any other connection. From then on each read goes to the sink's `on_body` as it is, and `push`
  writes: the end of the connection is `on_lost`, whoever closed it. It is never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.wire.connection import Connection

SWITCHED: Final = 101


class Switching(Connection):
    """The connection."""

    __slots__ = ("_switched",)

    def __init__(self, loop: asyncio.AbstractEventLoop, on_close: Callable[[Connection], None]) -> None:
        Connection.__init__(self, loop, on_close)
        self._switched: bool = False

    def push(self, data: bytes) -> None:
        """Write more, after the switch. The sink's `on_sent` follows where it is not `flushed` at once."""
        if self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self._switched:
            Connection.data_received(self, data)
        elif self._sink is not None:
            self._sink.on_body(data)

    def on_headers_complete(self) -> None:
        parser, sink = self._parser, self._sink
        if parser is None or sink is None or parser.get_status_code() != SWITCHED:
            Connection.on_headers_complete(self)
            return
        self._switched = True
        self.status = SWITCHED
        sink.on_head(SWITCHED, self._headers)

    def on_message_complete(self) -> None:
        if not self._switched:
            Connection.on_message_complete(self)

    def _switch(self, rest: bytes) -> None:
        if not self._switched:
            Connection._switch(self, rest)
        elif rest and self._sink is not None:
            self._sink.on_body(rest)

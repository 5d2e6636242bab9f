"""The open connections of clients.

Rules:
- One set for all protocols of a server, which add themselves and leave; so their number is known at any time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.telemetry.metrics import Metrics
from gateway.wire.room import watch


class Connections(set[Any]):
    """The set of open client connections, which uvicorn's protocols add and remove themselves from."""

    def __init__(self) -> None:
        super().__init__()
        self._left = asyncio.Event()
        watch(self)

    def discard(self, connection: object) -> None:
        super().discard(connection)
        self._left.set()

    async def gone(self) -> None:
        """Wait until no connection is open."""
        while self:
            self._left.clear()
            await self._left.wait()

    def tell(self, metrics: Metrics, running: int) -> None:
        """Set the gauges of open connections; `running` is how many requests for engines are served now."""
        busy = min(len(self), running)
        cells = metrics.program.connections
        cells.cell("busy").value, cells.cell("idle").value = busy, len(self) - busy

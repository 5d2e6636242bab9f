"""Answers that the application gives itself and writes to the client's channel directly, counted in no metric.

Rules:
- However serving ends (done, an error, the client left, a shutdown), the request ends once and its channel is closed.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from fastapi.responses import Response

from backends.surfaces.openai import OPENAI
from backends.surfaces.surface import Surface
from gateway.api.endpoint import Core
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.wire.downstream import AsgiWayBack, Receive, Scope, Send, way_back_of


class Direct(Response):
    """An answer that is written by `serve`."""

    def __init__(self, core: Core, surface: Surface = OPENAI) -> None:
        """Answer in the dialect of `surface`, errors too."""
        super().__init__()
        self._core = core
        self._surface = surface

    @abstractmethod
    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        """Write the answer. Whatever it raises becomes the client's error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = way_back_of(scope, receive, send)
        exchange = self._core.uncounted(way, dict(scope["headers"]), self._surface)
        exchange.task = asyncio.current_task()
        try:
            await self.serve(scope, way, exchange)
        except asyncio.CancelledError:
            # The request's task ends here, so the cancellation has done its work and need not be raised further.
            exchange.end(exchange.interrupted or GatewayError(Own.DRAINING, "the gateway is shutting down"))
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
        else:
            exchange.end()
        await way.close()

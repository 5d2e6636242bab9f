"""The endpoints for batches, as OpenAI's SDKs use them; and how their lines are answered.

Rules:
- A line of a batch is a request like any other: the same rules, keys, routes, retries and metrics. It has no client,
  comes in the class `background`, and its key is the one that made the batch, as the config has that key now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from backends.base import Health, Operation
from backends.dialect.waits import retry_after
from gateway.api import batch_schemas as schemas
from gateway.api.endpoint import Core, Endpoint
from gateway.api.files import Keeping, left, listed, shown, within
from gateway.auth import ANYONE, Caller
from gateway.batches.sending import Answer
from gateway.errors import ROWS, GatewayError, Own
from gateway.priority import BACKGROUND, CLASSES
from gateway.wire.tee import Kept, Nowhere

_BODY: Final = 1 << 20
"""Most bytes of a request for a batch."""
_ANSWER: Final = 64 << 20
"""Most bytes of the answer to one line."""
_HEADERS: Final = {
    b"content-type": b"application/json",
    b"x-gateway-priority": CLASSES[BACKGROUND].encode(),
}


def add_batches(app: FastAPI, keeping: Keeping) -> None:
    """Add the endpoints to the application."""
    takes = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.BatchRequest.model_json_schema()}},
        }
    }

    @app.post("/v1/batches", tags=["batches"], response_model=schemas.Batch, openapi_extra=takes)
    async def create(request: Request) -> Response:
        """Have the requests in an uploaded file be answered when nobody else needs the engines."""
        service, owner = keeping.of(request)
        record = await service.create(owner, await _body(request))
        return shown(record.shown())

    @app.get("/v1/batches", tags=["batches"], response_model=schemas.BatchList)
    async def list_batches(request: Request, after: str | None = None, limit: int = 20) -> Response:
        """List this key's batches, newest first."""
        service, owner = keeping.of(request)
        within(limit, 100)
        found, more = await service.batches(owner, after, limit)
        return listed([record.shown() for record in found], more)

    @app.get("/v1/batches/{batch_id}", tags=["batches"], response_model=schemas.Batch)
    async def show_batch(batch_id: str, request: Request) -> Response:
        """Show a batch."""
        service, owner = keeping.of(request)
        return shown((await service.batch(owner, batch_id)).shown())

    @app.post("/v1/batches/{batch_id}/cancel", tags=["batches"], response_model=schemas.Batch)
    async def cancel(batch_id: str, request: Request) -> Response:
        """Cancel a batch. What was answered is in its files."""
        service, owner = keeping.of(request)
        return shown((await service.cancel(owner, batch_id)).shown())


async def _body(request: Request) -> bytes:
    """Return the body of a request for a batch. Raises GatewayError."""
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > _BODY:
                raise GatewayError(Own.TOO_LARGE, f"the request body is larger than {_BODY} bytes")
    except ClientDisconnect:
        raise left() from None
    return body


class Errands:
    """Requests without a client, served as those of clients are."""

    def __init__(self, core: Core, endpoints: Mapping[Operation, Endpoint]) -> None:
        self._core = core
        self._endpoints = endpoints

    async def send(self, owner: str, operation: Operation, body: bytes) -> Answer:
        """Have a request be answered. See `gateway.batches.sending.Send`."""
        endpoint = self._endpoints[operation]
        kept = Kept(_ANSWER)
        way = Nowhere(asyncio.get_running_loop(), kept)
        exchange = endpoint.open(way, _HEADERS, perf_counter_ns())
        try:
            endpoint.take_for(exchange, self._caller(owner))
        except GatewayError as error:
            exchange.end(error)
        else:
            endpoint.accept(exchange, body)
        await exchange.ended()
        hopeful = exchange.code == _UNKNOWN and self._misses_one()
        after = None if kept.status < 300 else retry_after(kept.headers)
        return Answer(kept.status, exchange.name, after, kept.body, hopeful)

    def _caller(self, owner: str) -> Caller:
        """Return the holder of the key of this name. Raises GatewayError where there is none any more."""
        keys = self._core.snapshot.keys
        if owner == ANYONE.name and keys.open:
            return keys.identify({})
        caller = keys.named(owner)
        if caller is None:
            raise GatewayError(
                Own.UNAUTHENTICATED, f"the key {owner!r}, whose batch this is, is not valid any more"
            )
        return caller

    def _misses_one(self) -> bool:
        """Tell whether some backend is not there, which may have models that nobody knows now."""
        backends = self._core.dispatcher.pool.backends.values()
        return any(backend.health is not Health.READY for backend in backends)


_UNKNOWN: Final = ROWS[Own.UNKNOWN_MODEL].code

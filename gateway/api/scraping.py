"""The engines' own metrics pages, as they are, and the list of them for Prometheus: one address reaches them all.

Rules:
- They need what `/metrics` needs. They hold what engines tell whoever asks: no prompt and no key, but names and
  paths of models and adapters, which `/metrics` does not tell.
- A page is asked of its engine when somebody asks for it, with the engine's key, within `PATIENCE` seconds and `PAGE`
  bytes, and at one time only once: whoever asks meanwhile gets the same page.
- Bytes pass unchanged. The content type does where it is one of a metrics page; any other becomes plain text, which no
  browser runs.
- An engine that has no page, or does not tell it, is an error: for Prometheus it is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from backends.base import Call, Failure, Kind, Phase
from gateway.api.admin import not_running
from gateway.api.endpoint import headers_of
from gateway.api.schemas import ErrorBody
from gateway.errors import GatewayError, Own
from gateway.fleet.fleet import Fleet
from gateway.wire.transfer import Transfer
from gateway.wire.upstream import Upstream

PATIENCE = 10.0
"""Seconds until an engine must have told its whole page: after as many Prometheus asks no longer, unless told so."""
PAGE = 16 << 20
"""Bytes of a page."""
PLAIN = "text/plain; charset=utf-8"
KINDS = ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf")
"""Content types of metrics pages."""

_ERROR = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}}
_ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((404, 502, 503, 504), _ERROR)


class Targets(BaseModel):
    """What Prometheus scrapes with the same labels (`http_sd_configs`)."""

    targets: list[str] = Field(description="The address of this gateway, as it was asked.")
    labels: dict[str, str] = Field(description="The path of the page, the backend and its engine.")


@dataclass(frozen=True, slots=True)
class _Page:
    """An engine's page in the pieces that it came in."""

    kind: str
    parts: tuple[bytes, ...]


class EnginePages:
    """The endpoints."""

    def __init__(self, fleet: Fleet) -> None:
        """Show the pages of the engines of `fleet`."""
        self._fleet = fleet
        self._asked: dict[str, asyncio.Task[_Page]] = {}
        """The pages that are under way, by backend."""

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/backends/metrics", tags=["operations"], response_model=list[Targets])
        async def targets(request: Request) -> Response:
            """List the metrics pages of all engines that have one, for Prometheus' `http_sd_configs`."""
            host = headers_of(request.scope).get(b"host", b"").decode("latin-1")
            return JSONResponse(self._targets(host))

        @app.get("/backends/{name}/metrics", tags=["operations"], response_class=Response, responses=_ERRORS)
        async def page(name: str) -> Response:
            """Show the metrics page of a backend's engine, as the engine tells it."""
            found = await self._page(name)
            headers = {"content-type": found.kind, "x-content-type-options": "nosniff"}
            return StreamingResponse(_one_by_one(found.parts), headers=headers)

    def _targets(self, host: str) -> list[dict[str, Any]]:
        return [
            {
                "targets": [host],
                "labels": {
                    "__metrics_path__": f"/backends/{name}/metrics",
                    "backend": name,
                    "engine": backend.engine.name,
                },
            }
            for name, backend in self._fleet.pool.backends.items()
            if backend.engine.metrics() is not None
        ]

    async def _page(self, name: str) -> _Page:
        """Return a backend's page. Raises GatewayError."""
        backend = self._fleet.pool.backends.get(name)
        if backend is None:
            message = f"there is no backend {name[:64]!r}"
            raise GatewayError(Own.UNKNOWN_URL, message, code="backend_not_found")
        page = backend.engine.metrics()
        if page is None:
            message = f"the engine of backend {name!r}, {backend.engine.name}, has no metrics page"
            raise GatewayError(Own.UNKNOWN_URL, message, code="no_metrics_page")
        where = self._fleet.metrics_at(name)
        if where is None:
            raise not_running(backend)
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.create_task(_fetched(where, page.path, name))
            asked.add_done_callback(lambda task: self._ended(name, task))
        return await asyncio.shield(asked)

    def _ended(self, name: str, task: asyncio.Task[_Page]) -> None:
        del self._asked[name]
        if not task.cancelled():
            task.exception()  # those who asked may have left


async def _fetched(where: Upstream, path: str, name: str) -> _Page:
    """Ask an engine for its page. Raises GatewayError."""
    transfer = Transfer(where, Call(path, method="GET"))
    try:
        async with asyncio.timeout(PATIENCE):
            await transfer.open()
            if transfer.status != 200:
                message = f"the engine of backend {name!r} answered GET {path} with {transfer.status}"
                raise GatewayError(Kind.FAILED, message)
            parts, size = [], 0
            async for part in transfer.pieces():
                parts.append(part)
                size += len(part)
                if size > PAGE:
                    raise GatewayError(Kind.LIMIT, "the engine's metrics page is too large")
    except TimeoutError:
        failure = Failure(Kind.TIMEOUT, f"the engine did not tell its metrics in {PATIENCE:g} s", Phase.TOTAL)
        raise GatewayError.of(failure) from None
    finally:
        transfer.close()
    kind = dict(transfer.headers).get(b"content-type", b"").decode("latin-1")
    return _Page(kind if kind.lower().startswith(KINDS) else PLAIN, tuple(parts))


async def _one_by_one(parts: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    """Yield parts of a page, so that the server sends one after the other."""
    for part in parts:
        yield part
        await asyncio.sleep(0)

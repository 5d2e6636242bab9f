"""The FastAPI application: every endpoint that no engine serves, and the reference page for all endpoints.

Rules:
- Every error of these endpoints has OpenAI's format too, or Anthropic's for a client that sends `anthropic-version`, or
  Google's for its SDKs. So has the model list. Those under `/api` have Ollama's, those under `/v1beta` Google's.
- The endpoints that engines serve are described from the same table that routes them, so the page is always complete.
- Health, metrics, the reference and the page at `/` hold no secrets and need no key; everything under `/v1` does.
- What answers GET answers HEAD: `gateway.app` passes it on as GET, and the server leaves the body out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from backends.base import Kind
from backends.surfaces.dialects import surface_at
from gateway.api import anthropic, gemini, schemas
from gateway.api.background import Background
from gateway.api.batches import add_batches
from gateway.api.cards import card, parent_of
from gateway.api.endpoint import Core, headers_of
from gateway.api.endpoints import SHAPES, described
from gateway.api.files import Keeping, add_files
from gateway.api.home import add_home
from gateway.api.ollama import add_ollama
from gateway.api.overview import unready
from gateway.api.responses import add_responses
from gateway.api.swagger import add_docs
from gateway.auth import Caller
from gateway.errors import GatewayError, Own
from gateway.telemetry.metrics import CONTENT_TYPES, wants_openmetrics

log = logging.getLogger("gateway.api")

VERSION = "anthropic-version"
"""The header that Anthropic's clients send, and no others."""

_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)


def web(
    core: Core,
    version: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    keeping: Keeping,
    background: Background | None,
) -> FastAPI:
    """Return the FastAPI application for the parts in `core`.

    `keeping` has files and batches, `background` responses that are made there, if there are any.
    """
    app = FastAPI(
        title="LLM gateway",
        version=version,
        description="One OpenAI-compatible URL in front of every engine.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _models(app, core)
    add_ollama(app, core)
    gemini.add_gemini(app, core)
    add_responses(app, core, background)
    add_files(app, keeping)
    add_batches(app, keeping)
    _operations(app, core)
    _errors(app)
    add_docs(app)
    add_home(app)

    described: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        if not described:
            # It takes a tenth of a second, in which the streams of others go on.
            described.append(await asyncio.to_thread(lambda: msgspec.json.encode(_described(app))))
        return Response(described[0], media_type="application/json")

    return app


def _models(app: FastAPI, core: Core) -> None:
    def caller(request: Request) -> Caller:
        return core.snapshot.keys.identify(headers_of(request.scope))

    @app.get("/v1/models", tags=["models"], response_model=schemas.ModelList)
    async def list_models(request: Request) -> Response:
        """List the models and aliases this key may use."""
        who, catalog = caller(request), core.snapshot.catalog
        listed = catalog.listed(who)
        if VERSION in request.headers:
            return Response(anthropic.page(listed, request.query_params), media_type="application/json")
        now = asyncio.get_running_loop().time()
        if gemini.CLIENT in request.headers:
            return Response(gemini.page(listed, request.query_params, now), media_type="application/json")
        data = [card(entry, now, parent_of(entry, catalog, who)) for entry in listed]
        return Response(msgspec.json.encode({"object": "list", "data": data}), media_type="application/json")

    @app.post("/v1/moderations", include_in_schema=False)
    async def moderations(request: Request) -> Response:
        """Refuse: no engine has the models for it, and an invented verdict would be worse than none."""
        caller(request)
        message = (
            "no engine behind this gateway classifies content as OpenAI's moderation models do; "
            "ask OpenAI's API itself, or a safety model by /v1/chat/completions"
        )
        raise GatewayError(Kind.UNSUPPORTED, message)

    @app.get("/v1/models/{model:path}", tags=["models"], response_model=schemas.ModelInfo)
    async def get_model(model: str, request: Request) -> Response:
        """Show one model or alias."""
        model = model.replace("%2F", "/")  # SDKs encode a slash in a model's name
        who = caller(request)
        if core.snapshot.catalog.find(model, who) is None and core.may_appear(model, who):
            assert core.discovery is not None
            await core.discovery.asked()
        entry = core.snapshot.catalog.entry(model, who)
        now = asyncio.get_running_loop().time()
        parent = parent_of(entry, core.snapshot.catalog, who)
        if gemini.CLIENT in request.headers:
            told = gemini.info(entry, now)
        else:
            told = anthropic.info(entry) if VERSION in request.headers else card(entry, now, parent)
        return Response(msgspec.json.encode(told), media_type="application/json")


def _operations(app: FastAPI, core: Core) -> None:
    @app.get("/ping", include_in_schema=False)
    @app.get("/health", include_in_schema=False)
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> schemas.Status:
        """Report that the process is alive."""
        return schemas.Status(status="ok")

    @app.get("/readyz", tags=["operations"], responses={503: {"model": schemas.ErrorBody}})
    async def readyz() -> schemas.Status:
        """Report whether some backend can take requests and the gateway is not shutting down."""
        error = unready(core)
        if error is not None:
            raise error
        return schemas.Status(status="ready")

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Show all metrics in Prometheus' text format, or as OpenMetrics where `Accept` asks for it."""
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        parts = await core.pages[openmetrics].page()
        headers = {"content-type": CONTENT_TYPES[openmetrics], "vary": "accept"}
        if len(parts) == 1:
            return Response(parts[0], headers=headers)
        return StreamingResponse(_one_by_one(parts), headers=headers)


async def _one_by_one(parts: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    """Yield parts of a page, so that the server sends one after the other, and each is given back when it was sent."""
    left = [*reversed(parts)]
    del parts
    while left:
        yield left.pop()
        await asyncio.sleep(0)


def _errors(app: FastAPI) -> None:
    def answer(request: Request, error: GatewayError) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers()}
        surface = surface_at(request.url.path, request.headers.get(VERSION), gemini.CLIENT in request.headers)
        body = surface.error(error.facts, request.scope.get("gateway.request_id", b""))
        return Response(body, surface.status(error.facts, error.status), headers, "application/json")

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        return answer(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "GET").replace("GET", "GET, HEAD").encode()
            return answer(request, wrong_method(request.method, request.url.path, ((b"allow", allow),)))
        if error.status_code == 404:
            return answer(
                request,
                GatewayError(Own.UNKNOWN_URL, f"there is nothing at {request.url.path[:128]!r}; see /docs"),
            )
        return answer(request, GatewayError(Own.INVALID, str(error.detail), status=error.status_code))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        message = f"{'.'.join(location)}: {first['msg']}"
        return answer(request, GatewayError(Own.INVALID, message, param=location[-1], status=422))

    async def bug(request: Request, error: Exception) -> Response:
        return answer(request, GatewayError(Own.INTERNAL, "the gateway failed; see its log"))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        GatewayError: known,
        HTTPException: http,
        RequestValidationError: invalid,
        Exception: bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def wrong_method(method: str, path: str, allow: tuple[tuple[bytes, bytes], ...]) -> GatewayError:
    """Return the error for a method that an endpoint does not have; `allow` is the header that lists the others."""
    return GatewayError(Own.METHOD, f"{method} is not allowed at {path[:128]}", headers=allow)


def _described(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's OpenAPI page with the endpoints that engines serve and the error schema added."""
    shapes: list[type[BaseModel]] = [*dict.fromkeys(SHAPES), schemas.ErrorBody]
    references, definitions = models_json_schema(
        [(shape, "validation") for shape in shapes],
        ref_template="#/components/schemas/{model}",
    )
    page = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    page.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    page["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    error = {"application/json": {"schema": references[schemas.ErrorBody, "validation"]}}
    errors = {str(status): {"description": "Error", "content": error} for status in _STATUSES}
    page["paths"] = described(references, errors) | page["paths"]
    return page

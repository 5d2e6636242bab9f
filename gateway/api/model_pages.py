"""Pages that engines have about one model (llama.cpp's `/props` and `/slots`), asked of the backend that serves it.

Rules:
- A page is asked of a backend that is up. It never loads a model, wakes an engine or waits for one.
- What engines are set to needs a key for the model. What they compute, of other clients too, is for operators.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.base import Call, Failure, Kind
from gateway.api.admin import Admin
from gateway.api.endpoint import headers_of
from gateway.api.schemas import ErrorBody
from gateway.auth import Caller
from gateway.errors import GatewayError, Own
from gateway.wire.ask import ask
from gateway.wire.upstream import Upstream

PATIENCE = 10.0
"""Seconds until an engine must have told its page."""
PAGE = 4 << 20
"""Most bytes of a page. The slots of a busy engine hold their prompts."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    }
    for status in (400, 401, 403, 404, 502, 503, 504)
}


class ModelPages:
    """The endpoints."""

    def __init__(self, admin: Admin) -> None:
        """Show the pages of the engines behind the models of `admin.core`."""
        self._admin = admin
        self._core = admin.core

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/props", tags=["models"], response_class=Response, responses=_ERRORS)
        async def props(request: Request, model: str | None = None) -> Response:
            """Show what the engine of a model is set to, as llama.cpp tells it."""
            caller = self._core.snapshot.keys.identify(headers_of(request.scope))
            return await self._page("props", model, caller)

        @app.get("/slots", tags=["models"], response_class=Response, responses=_ERRORS)
        async def slots(request: Request, model: str | None = None) -> Response:
            """Show what the slots of a model's engine compute, as llama.cpp tells it; for operators."""
            caller = self._admin.let_in(request.scope)
            return await self._page("slots", model, caller)

    async def _page(self, page: str, model: str | None, caller: Caller) -> Response:
        where, call = self._found(page, model or self._core.snapshot.config.defaults.model, caller)
        answer = await ask(where, call, PATIENCE, PAGE)
        if isinstance(answer, Failure):
            raise GatewayError.of(answer)
        status, body = answer
        if status != 200:
            raise GatewayError(Kind.FAILED, f"the engine answered GET /{page} with {status}")
        return Response(body, media_type="application/json", headers={"x-content-type-options": "nosniff"})

    def _found(self, page: str, model: str | None, caller: Caller) -> tuple[Upstream, Call]:
        """Return where a page is asked for, and how. Raises GatewayError."""
        if not model:
            message = f"name the model whose engine is meant: /{page}?model=NAME"
            raise GatewayError(Own.INVALID, message, param="model", code="missing_field")
        plan = self._core.snapshot.catalog.resolve(model, caller)
        pages = [
            (target, call)
            for target in plan.groups[0].targets
            if (call := target.backend.engine.page(page, target.model)) is not None
        ]
        if not pages:
            message = f"no engine of the model {model[:64]!r} has the page /{page}"
            raise GatewayError(Kind.UNSUPPORTED, message, param="model")
        for target, call in pages:
            backend = target.backend
            if backend.ready and not backend.asleep and backend.upstream is not None:
                return backend.upstream, call
        raise GatewayError(Own.NO_BACKEND, f"no backend of the model {model[:64]!r} is up")

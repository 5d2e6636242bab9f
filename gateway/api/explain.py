"""The endpoints that say why requests go where they go.

Rules:
- `/v1/route:explain` takes the body that a request would have, from whoever may send it, and sends nothing on.
- An operator may ask on behalf of any key. Others ask for their own, and are not told what is the
  operators' business.
- `/gateway/decisions/ID` is for operators: it tells of somebody's real request.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from time import time
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.base import Operation
from backends.surfaces import naming
from backends.surfaces.dialects import surface_of
from backends.surfaces.openai import JSON_HEADERS
from gateway.api.admin import ERRORS, KEY, TAKES, Admin
from gateway.api.direct import Direct
from gateway.api.endpoint import Core, headers_of
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.routing.decision import Moment
from gateway.routing.explanation import explain, for_client
from gateway.wire.codings import coding_of, decoded
from gateway.wire.downstream import AsgiWayBack, Scope


def add_to(app: FastAPI, core: Core, admin: Admin) -> None:
    """Add the endpoints to the application."""

    @app.post("/v1/route:explain", tags=["routing"], responses=ERRORS, openapi_extra=TAKES)
    async def explain_route(operation: Operation = Operation.CHAT, key: str | None = None) -> Response:
        """Say where a request with this body and these headers would go now, and why nowhere else.

        `operation` is what would be asked for. `key` is the name of another key to ask for, for operators.
        """
        return _Explained(core, admin, operation, key)

    @app.get("/gateway/decisions/{id}", tags=["admin"], responses=ERRORS, openapi_extra=KEY)
    async def show_decision(id: str, request: Request) -> dict[str, Any]:
        """Say what was decided of a request, by the id in its `x-gateway-decision`. The last thousand are kept."""
        admin.let_in(request.scope)
        found = core.snapshot.router.decisions.find(id)
        if found is None:
            message = f"no decision {id[:64]!r} is kept: this process keeps the last ones only"
            raise GatewayError(Own.UNKNOWN_URL, message, code="decision_not_found")
        return found.told()


class _Explained(Direct):
    """The answer to one question: reads the body as the endpoint of the operation would."""

    def __init__(self, core: Core, admin: Admin, operation: Operation, key: str | None) -> None:
        super().__init__(core)
        self._admin = admin
        self._operation = operation
        self._key = key

    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        headers = headers_of(scope)
        caller = self._caller(scope, headers)
        most = self._core.snapshot.config.server.limits.body
        body = decoded(coding_of(headers), await way.body(most), most)
        asked = self._asked(headers, body, caller)
        snapshot = self._core.snapshot
        moment = Moment(way.loop.time(), time(), Random())
        told = explain(snapshot.router, asked, moment, snapshot.config.defaults.unknown_model)
        if not self._asks_operator(scope):
            told = for_client(told)
        exchange.reply(200, JSON_HEADERS, msgspec.json.encode(told))

    def _caller(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
        keys = self._core.snapshot.keys
        if self._key is None:
            return keys.identify(headers)
        self._admin.let_in(scope)
        found = keys.named(self._key)
        if found is None:
            raise GatewayError(Own.INVALID, f"there is no key {self._key[:64]!r}", param="key")
        return found

    def _asks_operator(self, scope: Scope) -> bool:
        try:
            self._admin.let_in(scope)
        except GatewayError:
            return False
        return True

    def _asked(self, headers: Mapping[bytes, bytes], body: bytes, caller: Caller) -> Asked:
        surface = surface_of(self._operation)
        content_type = headers.get(b"content-type", b"")
        surface.check(self._operation, content_type)
        model = self._core.snapshot.config.defaults.model
        return Asked(naming.read(surface, self._operation, content_type, body, model), headers, caller)

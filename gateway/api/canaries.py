"""The endpoints that show operators the canaries of the routes, and begin one again.

Rules:
- What they answer is that of all processes, and each of them begins again: they count requests by themselves.
- Who has begun one again is one line in the log.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from gateway.api.admin import ERRORS, KEY, Admin
from gateway.api.observing import Ask
from gateway.api.overview import CANARIES, RESET
from gateway.errors import GatewayError, Own
from gateway.routing.canary import State

log = logging.getLogger("gateway.api")

_DESCRIBED: dict[str, Any] = {"tags": ["admin"], "responses": ERRORS, "openapi_extra": KEY}


class CanaryHere(BaseModel):
    """A canary as one process has it."""

    state: State = Field(
        description="`held`: the time of its step is over, but it had too few requests or looks worse; "
        "`rolled_back`: it was out of bounds and stays at zero."
    )
    share: float = Field(description="The share of the requests that it gets now, from 0 to 1.")
    reason: str = Field(description="Why it is held or was rolled back; else empty.")
    progress: str = Field(description="Its step, what was counted in it, and what the next one waits for.")


class CanaryView(BaseModel):
    """The canary of one route."""

    route: str = Field(
        description="The name of its route; behind it, after a slash, where it stands within other choices."
    )
    model: str = Field(description="The new model.")
    against: str = Field(description="The model that it is to replace.")
    processes: list[CanaryHere] = Field(description="It in each process that serves.")


class CanaryEndpoints:
    """The endpoints, and how all processes are asked."""

    def __init__(self, admin: Admin, ask: Ask) -> None:
        """Let in whom `admin` lets in. `ask` asks all processes."""
        self._admin = admin
        self._ask = ask

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/gateway/canaries", response_model=list[CanaryView], **_DESCRIBED)
        async def canaries(request: Request) -> Response:
            """List the canaries of the routes, each with its state, its share, and why it is there."""
            self._admin.let_in(request.scope)
            return _json(await self._ask(CANARIES, {}))

        @app.post("/gateway/canaries/{route:path}/reset", response_model=CanaryView, **_DESCRIBED)
        async def reset(route: str, request: Request) -> Response:
            """Begin a canary again with its first step, whatever it did before, and forget what it has counted."""
            caller = self._admin.let_in(request.scope)
            wanted = route.replace("%2F", "/")  # as clients encode the slash in a name
            found = [each for each in await self._ask(RESET, {"route": wanted}) if each["route"] == wanted]
            if not found:
                raise GatewayError(
                    Own.UNKNOWN_URL, f"no route has a canary {wanted[:128]!r}", code="canary_not_found"
                )
            log.info("route '%s': the canary begins again, ordered by '%s'", wanted, caller.name)
            return _json(found[0])


def _json(found: Any) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")

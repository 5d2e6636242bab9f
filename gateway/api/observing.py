"""The endpoints that show operators the gateway as a whole, its models and the requests that run, and cancel one.

Rules:
- What they answer is that of all processes of the gateway, whichever is asked.
- A name that a client has typed is shown to operators only, never in a metric.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from gateway.api.admin import ERRORS, KEY, Admin
from gateway.api.overview import CANCEL, MODELS, REQUESTS, STATUS, shown_status
from gateway.errors import GatewayError, Own
from gateway.running import MOST, USUAL

log = logging.getLogger("gateway.api")

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Asks all processes for something, and returns the merged answer."""

_ALL: dict[str, Any] = {"tags": ["admin"], "responses": ERRORS, "openapi_extra": KEY}


class ServedTarget(BaseModel):
    """The requests for one model at one backend."""

    model: str = Field(description="`-` while it is not known.")
    backend: str = Field(description="`-` while it is not known.")
    requests: int
    tokens: int = Field(description="What they have got so far: one for each piece of content of a stream.")


class GatewayStatus(BaseModel):
    """The gateway as it is now."""

    version: str
    config: str = Field(
        description="The version of the config in force, as `GET /gateway/config` has it; empty without a file."
    )
    started: str
    uptime: float = Field(description="Seconds.")
    processes: int = Field(description="Processes that serve requests.")
    ready: bool = Field(
        description="Whether some backend can take requests, and the gateway is not stopping."
    )
    reason: str = Field(description="Why it is not ready; else empty.")
    requests: int = Field(description="Requests that run now.")
    phases: dict[str, int] = Field(
        description="How many of them are in each phase; phases without any are left out."
    )
    targets: list[ServedTarget]


class ModelTarget(BaseModel):
    """One backend of a model."""

    backend: str
    model: str = Field(description="The backend's name for the model.")
    weight: float = Field(description="Its weight as the config has it.")
    weight_now: float = Field(description="The same with slow start and an operator's factor.")
    in_flight: int = Field(description="The model's requests there now.")


class OperatedModel(BaseModel):
    """One model as operators see it. Numbers are those of all processes together."""

    name: str
    aliases: list[str]
    context: int | None = Field(
        description="The most tokens of prompt and answer together: what the config says, else the least that its "
        "backends tell; null where nobody does."
    )
    targets: list[ModelTarget]
    fallbacks: list[str] = Field(description="The models that are tried after it, and theirs.")
    queued: int = Field(description="Requests that wait for a slot of the model.")
    slots: int | None = Field(description="How many requests may run at once; null if that is not limited.")
    slots_held: int | None = Field(description="How many of the slots are taken; null as before.")


class RunningRequest(BaseModel):
    """A request that runs."""

    id: str = Field(description="The answer's `x-request-id`.")
    key: str | None = Field(description="The name of the client's key; null while it is not known.")
    model: str = Field(description="`-` while it is not known.")
    backend: str = Field(description="Where it is or was last; `-` before its first attempt.")
    operation: str
    phase: str = Field(description="What it waits for now: one of the hops of its life, such as `queue`.")
    age: float = Field(description="Seconds since its first byte.")
    attempts: int
    tokens: int = Field(
        description="What its client has got: one for each piece of content of a stream, so far."
    )
    stream: bool | None = Field(description="Whether a stream was asked for; null while it is not known.")


class RunningRequests(BaseModel):
    """Requests that run."""

    total: int = Field(description="How many there are of those that were asked for, listed or not.")
    requests: list[RunningRequest] = Field(description="The oldest first.")


class Cancelled(BaseModel):
    """What was cancelled."""

    id: str
    cancelled: int = Field(
        description="Requests with this id; more than one where clients say ids themselves."
    )


class Observing:
    """The endpoints, and how all processes are asked."""

    def __init__(self, admin: Admin, ask: Ask) -> None:
        """Let in whom `admin` lets in. `ask` asks all processes."""
        self._admin = admin
        self._ask = ask

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/gateway/status", response_model=GatewayStatus, **_ALL)
        async def status(request: Request) -> Response:
            """Show whether the gateway is ready, since when it runs, and what its requests wait for."""
            self._admin.let_in(request.scope)
            return _json(shown_status(await self._ask(STATUS, {}), time.time()))

        @app.get("/gateway/models", response_model=list[OperatedModel], **_ALL)
        async def models(request: Request) -> Response:
            """List every model with its targets, its slots and its queue."""
            self._admin.let_in(request.scope)
            return _json(await self._ask(MODELS, {}))

        @app.get("/gateway/requests", response_model=RunningRequests, **_ALL)
        async def requests(
            request: Request,
            limit: Annotated[int, Query(ge=1, le=MOST)] = USUAL,
            key: str | None = None,
            model: str | None = None,
            backend: str | None = None,
        ) -> Response:
            """List the requests that run, the oldest first; those of a key, a model or a backend where one is given."""
            self._admin.let_in(request.scope)
            wanted = {"limit": limit, "key": key, "model": model, "backend": backend}
            return _json(await self._ask(REQUESTS, wanted))

        @app.delete("/gateway/requests/{id:path}", response_model=Cancelled, **_ALL)
        async def cancel(id: str, request: Request) -> Response:
            """Cancel a request that runs. Its client gets an error, and its engine's connection is closed."""
            caller = self._admin.let_in(request.scope)
            wanted = id.replace("%2F", "/")  # as clients encode the slash in an id
            count = await self._ask(CANCEL, {"id": wanted})
            if not count:
                message = f"no request with the id {wanted[:128]!r} runs"
                raise GatewayError(Own.UNKNOWN_URL, message, code="request_not_found")
            log.info("request %s: cancelled by '%s'", wanted, caller.name)
            return _json({"id": wanted, "cancelled": count})


def _json(found: Any) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")

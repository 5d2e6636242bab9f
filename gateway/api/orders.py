"""The endpoints by which an operator takes a backend out of service and back, weighs it, starts and stops its engine.

Rules:
- An order is answered once every process of the gateway obeys it, with the backend as it is then.
- The last part of these paths is no engine's action, which is at `POST /gateway/backends/{name}/{action}`.
- Who ordered what is one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import Field, ValidationError

from backends.facts.units import Duration
from gateway.api.admin import ERRORS, KEY, Admin, arguments_in
from gateway.api.endpoint import headers_of
from gateway.config.section import Section, validate
from gateway.errors import GatewayError, Own
from gateway.fleet.orders import LARGEST_WEIGHT, Kind, Order
from gateway.fleet.view import BackendView

log = logging.getLogger("gateway.api")

While = Annotated[Duration | None, Field(alias="for")]


class Draining(Section):
    """The arguments of `drain`."""

    seconds: While = None


class Weighing(Section):
    """The arguments of `weight`."""

    weight: float = Field(ge=0, le=LARGEST_WEIGHT)
    seconds: While = None


class _Nothing(Section):
    """The arguments of orders that have none."""


T = TypeVar("T", bound=Section)


class OrderEndpoints:
    """The endpoints, and how an order reaches all processes."""

    def __init__(self, admin: Admin, order: Callable[[Order], Awaitable[None]]) -> None:
        """Let in whom `admin` lets in. `order` has all processes obey, and returns when they do."""
        self._admin = admin
        self._order = order

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.post("/gateway/backends/{name}/drain", **_described(Draining))
        async def drain(name: str, request: Request) -> BackendView:
            """Send a backend no more requests, `for` a while or until it is undrained.

            Requests under way finish; those that wait go elsewhere. It is no last resort either. A reload of the
            config changes nothing about it, a restart of the gateway does.
            """
            said = await self._read(request, name, Draining)
            return await self._carry_out(request, Order(name, Kind.DRAIN, seconds=said.seconds))

        @app.post("/gateway/backends/{name}/undrain", **_described(_Nothing))
        async def undrain(name: str, request: Request) -> BackendView:
            """Send a drained backend requests again."""
            await self._read(request, name, _Nothing)
            return await self._carry_out(request, Order(name, Kind.UNDRAIN))

        @app.post("/gateway/backends/{name}/weight", **_described(Weighing))
        async def weigh(name: str, request: Request) -> BackendView:
            """Multiply a backend's weight in every model by a factor from 0 to 10, `for` a while or until another one.

            With 0 it gets a request only where no other backend can take it. 1 is what the config says.
            """
            said = await self._read(request, name, Weighing)
            return await self._carry_out(request, Order(name, Kind.WEIGHT, said.weight, said.seconds))

        @app.post("/gateway/backends/{name}/breaker/reset", **_described(_Nothing))
        async def reset_breaker(name: str, request: Request) -> BackendView:
            """Close a backend's breaker, end its rest, and hold no failure so far against it."""
            await self._read(request, name, _Nothing)
            return await self._carry_out(request, Order(name, Kind.RESET_BREAKER))

        @app.post("/gateway/backends/{name}/start", **_described(_Nothing))
        async def start(name: str, request: Request) -> BackendView:
            """Start a backend's engine that the gateway launches, making room for it if need be."""
            await self._read(request, name, _Nothing)
            return await self._carry_out(request, self._launched(Order(name, Kind.START)))

        @app.post("/gateway/backends/{name}/stop", **_described(_Nothing))
        async def stop(name: str, request: Request) -> BackendView:
            """Stop a backend's engine that the gateway launches; its requests finish first.

            While it starts, that is given up at once, and those who wait for it are told. An engine that runs on demand
            starts again for the next request. One that always runs stays stopped until it is started.
            """
            await self._read(request, name, _Nothing)
            return await self._carry_out(request, self._launched(Order(name, Kind.STOP)))

    def _launched(self, order: Order) -> Order:
        """Return the order. Raises GatewayError where the gateway does not launch the engine."""
        if self._admin.backend(order.backend).residence is None:
            message = f"the gateway does not launch the engine of backend {order.backend!r}: it has a url"
            raise GatewayError(Own.INVALID, message, code="not_launched", param="name")
        return order

    async def _read(self, request: Request, name: str, kind: type[T]) -> T:
        """Let the operator in, and return the arguments. Raises GatewayError where something is wrong."""
        self._admin.let_in(request.scope)
        self._admin.backend(name)
        arguments = arguments_in(headers_of(request.scope), await request.body())
        try:
            return validate(kind, arguments)
        except ValidationError as error:
            raise _invalid(error) from None

    async def _carry_out(self, request: Request, order: Order) -> BackendView:
        caller = self._admin.let_in(request.scope)
        await self._order(order)
        log.info("backend '%s': %s, ordered by '%s'", order.backend, order, caller.name)
        views = {view.name: view for view in await self._admin.backends()}
        if order.backend not in views:
            raise GatewayError(Own.UNKNOWN_URL, "the backend has left the config", code="backend_not_found")
        return views[order.backend]


def _described(kind: type[Section]) -> dict[str, Any]:
    schema = {"content": {"application/json": {"schema": kind.model_json_schema()}}}
    return {"tags": ["admin"], "responses": ERRORS, "openapi_extra": {**KEY, "requestBody": schema}}


def _invalid(error: ValidationError) -> GatewayError:
    """Return the error for arguments that are not as they should be: the first thing that is wrong."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    hint = first.get("ctx", {}).get("hint")
    message = f"{name}: {first['msg']}" + (f" ({hint})" if hint else "")
    return GatewayError(Own.INVALID, message, param=name or None)

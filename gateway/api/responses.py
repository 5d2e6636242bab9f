"""OpenAI's Responses where the gateway has a store: made and kept, continued, retrieved, listed, deleted.

Rules:
- The gateway alone knows what a response continues: an engine gets the whole conversation, so any backend can go on
  with it, whichever answered before and whatever API it speaks.
- A response exists for the key that made it. For every other it is not there.
- One in the background is made by `gateway.api.background`; here its client is told of it.
- What needs no store costs nothing more without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from backends.base import Operation
from backends.surfaces.openai import JSON_HEADERS, OPENAI
from backends.surfaces.responses import kept as said
from gateway.api import responses_schemas, schemas
from gateway.api.background import Background
from gateway.api.background_run import Run
from gateway.api.endpoint import UNCOUNTED, Core, Endpoint, headers_of
from gateway.api.endpoints import SECURITY
from gateway.api.kept import KeptResponses, Turn
from gateway.api.reading import Steps
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.store.failure import no_store
from gateway.telemetry.timeline import LOAD, ROUTE
from gateway.wire.tee import Told

if TYPE_CHECKING:
    from gateway.store.background import Row
    from gateway.store.responses import Kept

PATH: Final = "/v1/responses/{response_id}"
USUAL: Final = 20
"""How many input items a page has where the client does not say."""
MOST: Final = 100
"""How many it may have."""
_TRUE: Final = ("true", "True", "1")
_DIGITS: Final = 16
"""More digits than the number of an event has."""


class Known(NamedTuple):
    """All responses that there are."""

    kept: KeptResponses
    background: Background

    async def find(self, owner: str, name: str) -> Row | Kept:
        """Return a response as it is now. Raises GatewayError (404) where this owner has none of this id."""
        return await self.background.find(owner, name) or await self.kept.find(owner, name)


class ResponsesEndpoint(Endpoint):
    """The endpoint that answers, and keeps what it has answered."""

    def __init__(self, core: Core, known: Known, operation: Operation, deployment: str = "") -> None:
        """Keep answers, unless the operation is the count of what is asked."""
        super().__init__(core, operation, deployment)
        self._known = known
        self._kept = known.kept
        self._keeps = operation is Operation.RESPONSES

    def at(self, deployment: str) -> Endpoint:
        return ResponsesEndpoint(self._core, self._known, self._operation, deployment)

    def _route(self, exchange: Exchange) -> None:
        """Route a request that was read, and dispatch it; one that continues a response once that was found."""
        try:
            wish = said.wish(exchange.request.body)
            is_later = self._keeps and wish.is_later
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
            return
        turn = Turn(exchange.caller.name, bytes(wish.input)) if self._keeps and wish.is_kept else None
        if is_later:
            Queueing(exchange, self._known.background, self, wish).begin(b"")
        elif wish.previous or wish.refers:
            Continuing(exchange, self._kept, (wish, turn), self._continue, self._core).begin(b"")
        else:
            self._go(exchange, turn)

    def _continue(self, exchange: Exchange, turn: Turn | None) -> None:
        """Route a request that has become a whole conversation."""
        self._take(exchange, exchange.request)
        self._go(exchange, turn)

    def _go(self, exchange: Exchange, turn: Turn | None) -> None:
        way = exchange.way
        if isinstance(way, Told):
            way.turn = turn
        elif turn is not None:
            exchange.way = self._kept.recording(way, turn, exchange.request.stream)
        super()._route(exchange)


class Queueing(Steps):
    """The wait of one client for the response that is made in the background, and for its events if it wants them."""

    def __init__(
        self, exchange: Exchange, background: Background, endpoint: Endpoint, wish: said.Wish
    ) -> None:
        """Have `background` make the response, by requests to `endpoint`."""
        super().__init__(exchange)
        self._background = background
        self._endpoint = endpoint
        self._wish = wish
        self._has_room = asyncio.Event()
        self._has_room.set()

    def pause(self) -> None:
        """Send nothing, because the client cannot keep up. See `gateway.request.Source`."""
        self._has_room.clear()

    def resume(self) -> None:
        """Send on."""
        self._has_room.set()

    async def _run(self, body: bytes) -> None:
        exchange = self._exchange
        exchange.timeline.mark(LOAD)
        try:
            # It is made even if its client leaves while the store notes it.
            begun = self._background.begin(self._endpoint, exchange, self._wish)
            run = await asyncio.shield(asyncio.ensure_future(begun))
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
            return
        exchange.sink = UNCOUNTED
        if exchange.request.stream:
            await self._follow(run)
        else:
            exchange.reply(200, JSON_HEADERS, msgspec.json.encode(run.response))
        exchange.end()

    async def _follow(self, run: Run) -> None:
        exchange = self._exchange
        exchange.way.source = self
        exchange.start(exchange.surface.stream_headers)
        async for event in run.follow(0):
            await self._has_room.wait()
            exchange.way.write(event)
        exchange.way.finish()


class Continuing(Steps):
    """The wait of one request for what was said earlier: what it continues, and items that it refers to."""

    def __init__(
        self,
        exchange: Exchange,
        kept: KeptResponses,
        of: tuple[said.Wish, Turn | None],
        route: Callable[[Exchange, Turn | None], None],
        core: Core,
    ) -> None:
        """Find what `of` names, then `route` the request; `of` also says what is kept of it."""
        super().__init__(exchange)
        self._kept = kept
        self._wish, self._turn = of
        self._route = route
        self._most = core.snapshot.config.server.limits.body

    async def _run(self, body: bytes) -> None:
        exchange = self._exchange
        exchange.timeline.mark(LOAD)
        try:
            await self._complete(exchange)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
            return
        exchange.timeline.mark(ROUTE)
        exchange.work = None
        self._route(exchange, self._turn)

    async def _complete(self, exchange: Exchange) -> None:
        """Put what was said earlier into the request. Raises GatewayError and StoreError."""
        owner, previous = exchange.caller.name, self._wish.previous
        found = await self._kept.chain(owner, previous, self._most) if previous else []
        turns = [(each.input, each.response) for each in found]
        before = await asyncio.to_thread(said.conversation, turns)
        if names := said.references(bytes(self._wish.input)):
            items = await self._kept.items(owner, names, self._most)
            exchange.request = said.resolved(exchange.request, items, before)
            self._note(input=bytes(said.wish(exchange.request.body).input))
        if previous:
            exchange.request = said.continued(exchange.request, previous, before)
            self._note(previous=previous, before=tuple(each.id for each in found))

    def _note(self, **changes: Any) -> None:
        """Change what is kept of the request."""
        if self._turn is not None:
            self._turn = msgspec.structs.replace(self._turn, **changes)


def add_responses(app: FastAPI, core: Core, background: Background | None) -> None:
    """Add the endpoints for responses that are there already to an application."""
    extra = {"security": SECURITY}

    @app.get(PATH, tags=["inference"], openapi_extra=extra, response_model=schemas.ResponsesAnswer)
    async def retrieve(request: Request, response_id: str) -> Response:
        """Retrieve a response that was kept or is made in the background, or the events of its stream."""
        known, owner = _who(core, background, request)
        if request.query_params.get("stream") not in _TRUE:
            return _json((await known.find(owner, response_id)).response)
        after = request.query_params.get("starting_after", "-1")
        if after != "-1" and not (after.isdecimal() and len(after) < _DIGITS):
            raise GatewayError(
                Own.INVALID, "'starting_after': expected the number of an event", param="starting_after"
            )
        events = await known.background.stream(owner, response_id, int(after))
        headers = {name.decode(): value.decode() for name, value in OPENAI.stream_headers}
        return StreamingResponse(events, headers=headers)

    @app.delete(
        PATH, tags=["inference"], openapi_extra=extra, response_model=responses_schemas.ResponseDeleted
    )
    async def delete(request: Request, response_id: str) -> Response:
        """Delete a response that was kept; one that is made in the background is cancelled, too."""
        known, owner = _who(core, background, request)
        if not await known.background.delete(owner, response_id):
            await known.kept.delete(owner, response_id)
        return _json(msgspec.json.encode({"id": response_id, "object": "response", "deleted": True}))

    @app.get(
        f"{PATH}/input_items",
        tags=["inference"],
        openapi_extra=extra,
        response_model=responses_schemas.InputItems,
    )
    async def input_items(request: Request, response_id: str) -> Response:
        """List what the model was given for a response, the newest first: its input, and all that it continues."""
        known, owner = _who(core, background, request)
        page = _Page(request)
        last = await known.find(owner, response_id)
        before = await known.kept.chain(owner, last.previous, _ALL) if last.previous else []
        turns = [(each.input, each.response) for each in before]
        items = await asyncio.to_thread(said.conversation, [*turns, (last.input, b"{}")])
        return _json(page.of(items))

    @app.post(
        f"{PATH}/cancel", tags=["inference"], openapi_extra=extra, response_model=schemas.ResponsesAnswer
    )
    async def cancel(request: Request, response_id: str) -> Response:
        """Cancel a response that is made in the background."""
        known, owner = _who(core, background, request)
        return _json(await known.background.cancel(owner, response_id))


def _who(core: Core, background: Background | None, request: Request) -> tuple[Known, str]:
    """Return the responses, and the name of the key that asks. Raises GatewayError."""
    owner = core.snapshot.keys.identify(headers_of(request.scope)).name
    if core.kept is None or background is None:
        raise no_store("stored responses")
    return Known(core.kept, background), owner


_ALL: Final = 1 << 40
"""Bytes of a conversation that is listed: as many as were kept."""


class _Page:
    """Which items of a list a client asks for."""

    def __init__(self, request: Request) -> None:
        """Read a query. Raises GatewayError."""
        asked = request.query_params
        limit = asked.get("limit", str(USUAL))
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MOST:
            raise GatewayError(Own.INVALID, f"'limit': expected a number from 1 to {MOST}", param="limit")
        self._limit = int(limit)
        self._order = asked.get("order", "desc")
        if self._order not in ("asc", "desc"):
            raise GatewayError(Own.INVALID, "'order': expected asc or desc", param="order")
        self._after = asked.get("after")

    def of(self, items: list[msgspec.Raw]) -> bytes:
        """Return the page as JSON. Raises GatewayError where the item is not there behind which it begins."""
        ids = [said.id_of(bytes(item)) for item in items]
        found = list(zip(ids, items, strict=True))
        if self._order == "desc":
            found.reverse()
        if self._after is not None:
            at = next((at for at, (name, _) in enumerate(found) if name == self._after), -1)
            if at < 0:
                raise GatewayError(Own.INVALID, f"there is no item '{self._after[:128]}'", param="after")
            found = found[at + 1 :]
        shown = found[: self._limit]
        told: dict[str, Any] = {
            "object": "list",
            "data": [item for _, item in shown],
            "first_id": shown[0][0] if shown else None,
            "last_id": shown[-1][0] if shown else None,
            "has_more": len(found) > len(shown),
        }
        return msgspec.json.encode(told)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")

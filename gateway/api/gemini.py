"""Google's Gemini API: the endpoints whose paths name the model, and the list of models as Google has it.

Rules:
- A key may stand in the query (`?key=`), as in Google's examples: it is taken for a header, and out of the query, so
  that nothing behind this module can write it down. A key in a header counts more.
- The list is the one at `/v1/models`: the models that this key may use, page by page. Google's SDKs get it there, too,
  in this form.
- A fact that is not known of a model is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.surfaces.dialects import GEMINI_LIST
from backends.surfaces.gemini import paths
from gateway.api import gemini_schemas
from gateway.api.cards import card
from gateway.api.endpoint import Core, Endpoint, headers_of
from gateway.auth import CREDENTIALS, Caller
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.routing.catalog import Listed
from gateway.wire.downstream import Scope

CLIENT: Final = "x-goog-api-client"
"""The header that Google's SDKs send, and no others; google-genai 3.6 asks for models where OpenAI's clients do."""
_HEADER: Final = b"x-goog-api-key"
_KEY: Final = "key"
_USUAL, _MOST = 50, 1000
"""How many models a page has, and may have, as in Google's API."""
_WRITES: Final = ("generateContent", "streamGenerateContent", "countTokens")
_EMBEDS: Final = ("embedContent", "batchEmbedContents")


class GeminiEndpoint(Endpoint):
    """The endpoint of one operation for the model that a path names."""

    def __init__(self, core: Core, meant: paths.Meant, events: bool) -> None:
        """Answer what a path means; a stream as `events`, else as one list."""
        super().__init__(core, meant.operation)
        self._meant = meant
        self._events = events
        if meant.streams and not events:
            self._surface = GEMINI_LIST

    def _read(self, exchange: Exchange, body: bytes) -> None:
        paths.check_name(self._meant.model)
        super()._read(exchange, paths.whole(body, self._meant.model, self._meant.streams, self._events))


def endpoint_of(core: Core, scope: Scope) -> GeminiEndpoint | None:
    """Return what serves a request for an engine at one of Google's paths; None where it is none."""
    meant = paths.meant(scope["path"]) if scope["method"] == "POST" else None
    if meant is None:
        return None
    query = dict(parse_qsl((scope.get("query_string") or b"").decode("latin-1")))
    return GeminiEndpoint(core, meant, paths.has_events(query.get("alt")))


def take_key(scope: Scope) -> None:
    """Take a key out of the query of a request at one of Google's paths; it counts where no header has one."""
    query = (scope.get("query_string") or b"").decode("latin-1")
    if _KEY not in query or not paths.is_of_google(scope["path"]):
        return
    pairs = parse_qsl(query, keep_blank_values=True)
    keys = [value for name, value in pairs if name == _KEY]
    if not keys:
        return
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != _KEY]).encode()
    if keys[0] and CREDENTIALS.isdisjoint(name for name, _ in scope["headers"]):
        scope["headers"] = [*scope["headers"], (_HEADER, keys[0].encode("utf-8", "replace"))]


def add_gemini(app: FastAPI, core: Core) -> None:
    """Add the lists of models to an application."""

    def caller(request: Request) -> Caller:
        return core.snapshot.keys.identify(headers_of(request.scope))

    @app.get("/v1beta/models", tags=["models"], response_model=gemini_schemas.Models)
    async def list_google_models(request: Request) -> Response:
        """List the models and aliases this key may use, as Google does."""
        listed = core.snapshot.catalog.listed(caller(request))
        now = asyncio.get_running_loop().time()
        return Response(page(listed, request.query_params, now), media_type="application/json")

    @app.get("/v1beta/models/{model:path}", tags=["models"], response_model=gemini_schemas.Model)
    async def get_google_model(model: str, request: Request) -> Response:
        """Show one model or alias, as Google does."""
        model = model.replace("%2F", "/")  # a slash in a model's name may be encoded
        who = caller(request)
        if core.snapshot.catalog.find(model, who) is None and core.may_appear(model, who):
            assert core.discovery is not None
            await core.discovery.asked()
        entry = core.snapshot.catalog.entry(model, who)
        told = info(entry, asyncio.get_running_loop().time())
        return Response(msgspec.json.encode(told), media_type="application/json")


def page(listed: Sequence[Listed], query: Mapping[str, str], now: float) -> bytes:
    """Return the page of the list that a query asks for. Raise GatewayError where it is wrong."""
    said = query.get("pageSize", query.get("page_size", str(_USUAL)))
    if not (said.isascii() and said.isdigit() and len(said) <= 9):
        raise GatewayError(Own.INVALID, "'pageSize' must be a whole number", param="pageSize")
    size = min(int(said) or _USUAL, _MOST)
    token = query.get("pageToken", query.get("page_token", ""))
    names = [entry.name for entry in listed]
    if token and token not in names:
        raise GatewayError(Own.INVALID, "'pageToken' is none of this list", param="pageToken")
    first = names.index(token) if token else 0
    told: dict[str, Any] = {"models": [info(entry, now) for entry in listed[first : first + size]]}
    if first + size < len(names):
        told["nextPageToken"] = names[first + size]
    return msgspec.json.encode(told)


def info(entry: Listed, now: float) -> dict[str, Any]:
    """Return the entry of a model at `now`, the loop's time."""
    abilities = card(entry, now).get("capabilities")
    told: dict[str, Any] = {"name": f"models/{entry.name}", "version": "1", "displayName": entry.name}
    if entry.group.context is not None:
        told["inputTokenLimit"] = told["outputTokenLimit"] = entry.group.context
    if abilities is None:
        return told | {"supportedGenerationMethods": [*_WRITES, *_EMBEDS]}
    methods = [*(_WRITES if "completion" in abilities else ())]
    methods += _EMBEDS if "embedding" in abilities else ()
    thinks = {"thinking": True} if "thinking" in abilities else {}
    return told | thinks | {"supportedGenerationMethods": methods}

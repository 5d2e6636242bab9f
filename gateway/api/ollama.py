"""Ollama's lists of models: what there is, what is loaded, and what is known of one.

Rules:
- Of a persona (`from`) its parameters, system prompt, example turns and template are shown to whoever may use it.
- What the gateway does not know of a model (its file, its size) is empty; what clients cannot do without, such as a
  digest to cut short, is made of the name.
- Abilities are those of the model list under `/v1/models`.
- The version is that of Ollama's whose API is meant: clients ask for features by it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.surfaces.dialects import OLLAMA_API
from backends.surfaces.openai import JSON_HEADERS
from gateway.api import ollama_schemas
from gateway.api.cards import CREATED, card, is_loaded, parent_of
from gateway.api.direct import Direct
from gateway.api.endpoint import Core, headers_of
from gateway.auth import Caller
from gateway.config.model import Model
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.routing.catalog import Listed
from gateway.wire.downstream import AsgiWayBack, Scope

VERSION: Final = "0.33.0"
_BODY: Final = 64 << 10
"""Most bytes of a question about a model."""
_SINCE: Final = datetime.fromtimestamp(CREATED, UTC).isoformat().replace("+00:00", "Z")
_FOREVER: Final = "2300-01-01T00:00:00Z"
"""When a model is unloaded of which nobody knows that it will be."""
_ARCHITECTURE: Final = "unknown"


class _Which(msgspec.Struct):
    model: str = ""
    name: str = ""


_which: Final = msgspec.json.Decoder(_Which).decode


def add_ollama(app: FastAPI, core: Core) -> None:
    """Add the endpoints to an application."""

    def caller(request: Request) -> Caller:
        return core.snapshot.keys.identify(headers_of(request.scope))

    def listed(request: Request) -> list[Listed]:
        return core.snapshot.catalog.listed(caller(request))

    @app.get("/api/version", tags=["models"], response_model=ollama_schemas.Version)
    async def version() -> Response:
        """Tell which version of Ollama's API this is."""
        return _json({"version": VERSION})

    @app.get("/api/tags", tags=["models"], response_model=ollama_schemas.Models)
    async def tags(request: Request) -> Response:
        """List the models and aliases this key may use, as Ollama does."""
        now = asyncio.get_running_loop().time()
        return _json({"models": [_entry(entry, now) for entry in listed(request)]})

    @app.get("/api/ps", tags=["models"], response_model=ollama_schemas.Models)
    async def ps(request: Request) -> Response:
        """List those of them that are in the memory of an engine, as Ollama does."""
        now = asyncio.get_running_loop().time()
        return _json(
            {"models": [_running(entry) for entry in listed(request) if is_loaded(entry.group, now)]}
        )

    @app.post("/api/show", tags=["models"])
    async def show() -> Response:
        """Show what is known of one model, as Ollama does."""
        return _Show(core, OLLAMA_API)


class _Show(Direct):
    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        core = self._core
        who = core.snapshot.keys.identify(headers_of(scope))
        body = await way.body(_BODY)
        try:
            said = _which(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise GatewayError(Own.INVALID, "the body must be a JSON object that names a 'model'") from None
        name = said.model or said.name
        if not name:
            raise GatewayError(Own.INVALID, "model is required", param="model")
        if core.snapshot.catalog.find(name, who) is None and core.may_appear(name, who):
            assert core.discovery is not None
            await core.discovery.asked()
        entry = core.snapshot.catalog.entry(name, who)
        model = core.snapshot.config.models.get(entry.group.model)
        parent = parent_of(entry, core.snapshot.catalog, who)
        told = _shown(entry, asyncio.get_running_loop().time(), model, parent)
        exchange.reply(200, JSON_HEADERS, msgspec.json.encode(told))


def _json(told: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(told), media_type="application/json")


def _entry(entry: Listed, now: float) -> dict[str, Any]:
    """Return the entry of a model in the list."""
    return {
        **_named(entry),
        "modified_at": _SINCE,
        "details": _details(entry),
        "capabilities": _capabilities(entry, now),
    }


def _running(entry: Listed) -> dict[str, Any]:
    """Return the entry of a model that is loaded."""
    told = {**_named(entry), "details": _details(entry), "expires_at": _FOREVER, "size_vram": 0}
    return told if entry.group.context is None else told | {"context_length": entry.group.context}


def _named(entry: Listed) -> dict[str, Any]:
    digest = sha256(entry.name.encode("utf-8", "replace")).hexdigest()
    return {"name": entry.name, "model": entry.name, "size": 0, "digest": digest}


def _details(entry: Listed) -> dict[str, Any]:
    told: dict[str, Any] = {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }
    return told if entry.group.context is None else told | {"context_length": entry.group.context}


def _capabilities(entry: Listed, now: float) -> list[str]:
    """Return what a model can do; that it writes, where nothing is known."""
    told: list[str] = card(entry, now).get("capabilities", ["completion"])
    return told


def _shown(entry: Listed, now: float, model: Model | None, parent: str) -> dict[str, Any]:
    """Return what is known of a model. Of a persona that is what it settles, and the model that it is made from."""
    about: dict[str, Any] = {"general.architecture": _ARCHITECTURE, "general.basename": entry.name}
    if entry.group.context is not None:
        about[f"{_ARCHITECTURE}.context_length"] = entry.group.context
    told = {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(entry) | {"parent_model": parent},
        "model_info": about,
        "capabilities": _capabilities(entry, now),
        "modified_at": _SINCE,
    }
    if model is None or model.parent is None:
        return told
    system: dict[str, Any] = {} if model.system is None else {"system": model.system.text}
    turns = [{"role": turn.role, "content": turn.content} for turn in model.messages]
    system |= {"messages": turns} if turns else {}
    return told | system | {"parameters": _parameters(model), "template": model.template or ""}


def _parameters(model: Model) -> str:
    """Return the parameters that a model gives its requests, each on a line of its own, as Ollama shows them."""
    given = {**model.parameters.default, **model.parameters.set}
    lines = [
        f"{name:<30} {msgspec.json.encode(value).decode()}"
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return "\n".join(lines)

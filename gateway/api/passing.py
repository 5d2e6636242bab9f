"""One engine's own paths, for operators: `/backends/NAME/...` goes to the backend NAME as it is.

Rules:
- For keys with `admin: true`, and without keys for whoever is on this machine, as all orders to engines are.
- Path, query, method and body reach the engine byte for byte, percent-encoding too; the answer comes back piece by
  piece, whatever its status.
- A header that concerns one connection, or says who asks, goes no further: the engine gets its own key from the config,
  and its cookies stay with it. An answer is never compressed on its way.
- It has no part in routing, slots, breakers or metrics. Each request is a line of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from backends.base import Call, Headers
from backends.surfaces.openai import UNBUFFERED
from gateway.api.admin import NO_SNIFFING, Admin, not_running
from gateway.api.direct import Direct
from gateway.api.web import wrong_method
from gateway.auth import CREDENTIALS
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.wire.downstream import AsgiWayBack, Scope
from gateway.wire.transfer import Transfer

log = logging.getLogger("gateway.api")

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OF_THE_CONNECTION: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"expect", b"host"),
    )
)
_OF_THE_CLIENT: Final = frozenset(
    (*CREDENTIALS, b"cookie", b"accept-encoding", b"content-type", b"forwarded", b"origin", b"referer")
)
"""What an engine is not told: who asks, from where, and which coding would do. The type of a body goes with it."""
_OF_THE_ENGINE: Final = frozenset((b"set-cookie", b"date", b"server", b"x-content-type-options"))
_NO_BODY: Final = (204, 304)


class EnginePaths:
    """The endpoint."""

    def __init__(self, admin: Admin) -> None:
        """Let in whom `admin` lets in."""
        self._admin = admin

    def add_to(self, app: FastAPI) -> None:
        """Add it to the application, behind whatever else begins with `/backends/`."""

        @app.api_route("/backends/{name}/{rest:path}", methods=[*METHODS], include_in_schema=False)
        async def passed(name: str, rest: str, request: Request) -> Response:
            """Pass a request on to a backend's engine."""
            if rest == "metrics":
                # The page of `gateway.api.scraping`, which is there for GET.
                raise wrong_method(request.method, request.url.path, ((b"allow", b"GET, HEAD"),))
            return _Passed(self._admin, name)


class _Passed(Direct):
    """The answer to one request."""

    def __init__(self, admin: Admin, name: str) -> None:
        super().__init__(admin.core)
        self._admin = admin
        self._name = name

    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        caller = self._admin.let_in(scope)
        backend = self._admin.backend(self._name)
        if backend.upstream is None:
            raise not_running(backend)
        method = scope.get("gateway.method") or scope["method"]
        path = _own_path(scope)
        body = await way.body(self._admin.core.snapshot.config.server.limits.body)
        told = _told(exchange.headers.items(), _OF_THE_CLIENT, exchange.headers.get(b"connection", b""))
        kind = exchange.headers.get(b"content-type", b"application/octet-stream")
        call = Call(path, body, method, told, kind)
        transfer = Transfer(backend.upstream, call)
        exchange.way.source = transfer
        try:
            await transfer.open()
            log.info(
                "backend '%s': %s %s, asked for by '%s' (%s): %d",
                *(self._name, method, path.partition("?")[0][:256], caller.name),
                *(exchange.name, transfer.status),
            )
            await _forwarded(transfer, method, exchange)
        finally:
            transfer.close()


async def _forwarded(transfer: Transfer, method: str, exchange: Exchange) -> None:
    """Pass the engine's answer on. Raises GatewayError where it breaks off."""
    status = exchange.status = transfer.status
    connection = next((value for name, value in transfer.headers if name == b"connection"), b"")
    told = [*_told(transfer.headers, _OF_THE_ENGINE, connection), NO_SNIFFING, *UNBUFFERED]
    told += exchange.surface.marks(exchange.id)
    way = exchange.way
    if method == "HEAD" or status in _NO_BODY:
        way.reply(status, [*told, *exchange.cors], b"")
        return
    way.start(status, [*told, *exchange.cors])
    async for piece in transfer.pieces():
        way.write(piece)
    way.finish()


def _told(headers: Iterable[tuple[bytes, bytes]], kept_back: frozenset[bytes], connection: bytes) -> Headers:
    """Return the headers that go on: none of the connection, none that it names, and none of `kept_back`."""
    named = {name.strip().lower() for name in connection.split(b",")}
    return [
        (name, value)
        for name, value in headers
        if name not in _OF_THE_CONNECTION and name not in kept_back and name not in named
    ]


def _own_path(scope: Scope) -> str:
    """Return path and query for the engine as the client wrote them: what follows the backend's name."""
    raw: bytes = scope["raw_path"]
    parts = raw.split(b"/", 3)
    query: bytes = scope.get("query_string") or b""
    path = b"/" + (parts[3] if len(parts) > 3 else b"") + (b"?" + query if query else b"")
    if not path.isascii():
        raise GatewayError(Own.INVALID, "the path is not ASCII: encode it with percent signs")
    return path.decode()

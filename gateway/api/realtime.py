"""The endpoint of OpenAI's Realtime API: a WebSocket at `/v1/realtime?model=NAME`, passed to an engine that has one.

Rules:
- It is a request like any other until protocols are switched: the same keys, models, routing, slots and retries. What
  goes wrong until then is an answer in OpenAI's words, with its status.
- A browser cannot send headers of its own with a WebSocket. It offers its key as the subprotocol
  `openai-insecure-api-key.KEY`, as for OpenAI, which goes no further.
- A page of another origin is let in as for everything else (`server.cors`), although browsers would not ask before.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from time import perf_counter_ns
from typing import Final
from urllib.parse import parse_qs

from backends.base import Operation
from backends.surfaces.realtime import PROTOCOL, body_of
from gateway.api.endpoint import Core, Endpoint, headers_of
from gateway.auth import CREDENTIALS
from gateway.errors import GatewayError, Own
from gateway.wire.downstream import Receive, Scope, Send, UvicornWay, way_back_of

PATH: Final = "/v1/realtime"
_KEY: Final = b"openai-insecure-api-key."
_VERSION: Final = b"13"
_KEY_BYTES: Final = 16
_BODY: Final = 64 << 10
"""Most bytes of a body, which a handshake does not need."""


class Realtime:
    """The endpoint, an ASGI application for GET."""

    def __init__(self, core: Core) -> None:
        """Serve it with the parts of the gateway."""
        self._endpoint = Endpoint(core, Operation.REALTIME)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one handshake, and the WebSocket that follows from it."""
        way = way_back_of(scope, receive, send)
        exchange = self._endpoint.open(way, dict(scope["headers"]), perf_counter_ns())
        exchange.task = asyncio.current_task()
        try:
            headers = exchange.headers = with_key(headers_of(scope))
            self._endpoint.admit(exchange)
            check(headers)
            if not isinstance(way, UvicornWay):
                raise GatewayError(Own.INVALID, "WebSockets need the gateway's own server", status=501)
            await way.body(_BODY)
            asked = parse_qs((scope.get("query_string") or b"").decode("latin-1"))
        except asyncio.CancelledError:
            # The request's task ends here, so the cancellation has done its work and need not be raised further.
            exchange.end(exchange.interrupted or GatewayError(Own.DRAINING, "the gateway is shutting down"))
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
        else:
            exchange.task = None
            model = (asked.get("model") or asked.get("deployment") or [None])[0]
            self._endpoint.accept(exchange, body_of(model, headers[b"sec-websocket-key"]))
            await exchange.ended()
        await way.close()


def with_key(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return headers without a key among the subprotocols, which counts where no header holds one."""
    offered = headers.get(PROTOCOL)
    if offered is None or _KEY not in offered:
        return headers
    names = [name.strip() for name in offered.split(b",")]
    keys = [name[len(_KEY) :] for name in names if name.startswith(_KEY)]
    rest = b", ".join(name for name in names if not name.startswith(_KEY))
    found = {name: value for name, value in headers.items() if name != PROTOCOL}
    if rest:
        found[PROTOCOL] = rest
    if keys and CREDENTIALS.isdisjoint(found):
        found[b"authorization"] = b"Bearer " + keys[0]
    return found


def check(headers: dict[bytes, bytes]) -> None:
    """Raise GatewayError for a request that does not begin a WebSocket (RFC 6455, section 4.2.1)."""
    connection = {name.strip().lower() for name in headers.get(b"connection", b"").split(b",")}
    if headers.get(b"upgrade", b"").strip().lower() != b"websocket" or b"upgrade" not in connection:
        message = f"{PATH} is a WebSocket: connect with 'Upgrade: websocket'"
        raise _refused(message, 426, ((b"upgrade", b"websocket"),))
    if headers.get(b"sec-websocket-version", b"").strip() != _VERSION:
        raise _refused("the version of WebSockets is 13", 426, ((b"sec-websocket-version", _VERSION),))
    try:
        size = len(b64decode(headers.get(b"sec-websocket-key", b"").strip(), validate=True))
    except binascii.Error:
        size = 0
    if size != _KEY_BYTES:
        raise _refused("the header 'Sec-WebSocket-Key' is missing or wrong", 400)


def _refused(message: str, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> GatewayError:
    return GatewayError(Own.INVALID, message, code="invalid_websocket", status=status, headers=headers)

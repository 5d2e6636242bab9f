"""Requests that a browser sends on behalf of a page: which origins may ask, and what they may read (CORS).

Rules:
- `server.cors` lists the origins whose pages may read answers, errors included. Without it no answer speaks of CORS.
- A gateway without keys is open to whoever runs on this machine, and to nobody else. A page from elsewhere, shown in a
  browser on this machine, could ask it too: directly, or under a name of its own that it makes resolve to this machine
  (DNS rebinding). So such a gateway wants to be called by its own names, and by no page of another machine.
- `auth: none` says in the config that everybody may ask; then nothing is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.base import Headers
from gateway.config.schema import Config
from gateway.errors import GatewayError, Own
from gateway.wire.origins import is_own

EXPOSED: Final = (
    b"retry-after, x-gateway-attempts, x-gateway-backend, x-gateway-decision, x-gateway-dropped, x-gateway-estimated, "
    b"x-gateway-model, x-gateway-queue-position, x-gateway-queue-wait, x-gateway-route, request-id, x-request-id, "
    b"x-should-retry"
)
"""The headers of answers that pages may read beside those that they always may."""
_METHODS: Final = b"GET, HEAD, POST"
_SECONDS: Final = b"600"
"""How long a browser may keep the answer to a preflight."""
_LONGEST: Final = 2048
"""Most bytes of the header names that a preflight asks for."""
_LIST: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_, "
"""The characters of a list of header names."""


class Origins:
    """What one config says about the origins of requests."""

    __slots__ = ("_all", "_allowed", "_guards", "_host")

    def __init__(self, config: Config) -> None:
        server = config.server
        self._allowed: frozenset[bytes] = frozenset(origin.encode() for origin in server.cors)
        self._all: bool = b"*" in self._allowed
        self._host: bytes = server.listen.host.lower().encode()
        self._guards: bool = not config.keys and server.auth != "none" and server.listen.loopback

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise GatewayError for a request that only a page of another machine can have caused."""
        if not self._guards:
            return
        host = headers.get(b"host")
        if host is not None and not is_own(host, self._host):
            message = (
                "without keys the gateway is open to this machine only: call it by its address or as 'localhost', "
                "or add keys to the config"
            )
            raise GatewayError(Own.FORBIDDEN, message, code="cross_site")
        origin = headers.get(b"origin")
        if origin is None or self._all or origin in self._allowed:
            return
        scheme, _, host = origin.partition(b"://")
        if scheme not in (b"http", b"https") or not is_own(host, self._host):
            message = "not for pages of other sites: `server.cors` in the config may list their origin"
            raise GatewayError(Own.FORBIDDEN, message, code="cross_site")

    def answering(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return the headers that let the page behind a request read its answer; none if it may not."""
        if not self._allowed:
            return ()
        origin = headers.get(b"origin")
        if origin is None:
            return ()
        if self._all:
            return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED))
        if origin not in self._allowed:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"Origin"),
        )

    def preflight(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return what an OPTIONS request gets beside `answering`; nothing if it is no preflight, or may not ask."""
        if not self.answering(headers) or b"access-control-request-method" not in headers:
            return ()
        wanted = headers.get(b"access-control-request-headers", b"")
        if len(wanted) > _LONGEST or wanted.translate(None, _LIST):
            wanted = b""
        answer = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", _SECONDS),
        ]
        if headers.get(b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return tuple(answer)

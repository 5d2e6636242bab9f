"""Who may read metrics, and where: on the main port, or on the one that `server.metrics.listen` sets apart.

Rules:
- Probes are answered on both ports, and never need a key.
- With a port of their own, metrics are on the main one for operators only: the command line asks there.
- A page is metrics by its path, whoever adds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.api.endpoint import Core
from gateway.errors import GatewayError, Own
from gateway.wire.downstream import Receive, Scope, Send

ASIDE: Final = "gateway.aside"
"""The key of the scope of a request that came by the port set apart."""
_PROBES: Final = frozenset(("/healthz", "/health", "/ping", "/readyz"))


def is_metrics(path: str) -> bool:
    """Tell whether a page of metrics is at a path: the gateway's own, or a backend's."""
    if path in ("/metrics", "/backends/metrics"):
        return True
    return path.startswith("/backends/") and path.endswith("/metrics") and path.count("/") == 3


def check(core: Core, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Raise GatewayError for a request that may not see what is at its path."""
    snapshot = core.snapshot
    settings = snapshot.config.server.metrics
    aside = ASIDE in scope
    if not aside or settings.listen is None or settings.listen.loopback:
        snapshot.origins.check(headers)
    if not is_metrics(scope["path"]):
        return
    if core.has_aside and not aside:
        snapshot.keys.operator(headers)
    elif settings.auth == "keys":
        snapshot.keys.observer(headers)


Answer = Callable[[Scope, Receive, Send, GatewayError], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def aside(application: Application, answer: Answer) -> Application:
    """Return what serves the port set apart: the metrics and probes of the application, and nothing else.

    `answer` ends a request with an error.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in _PROBES or is_metrics(path):
            await application({**scope, ASIDE: True}, receive, send)
        else:
            message = f"there are metrics and probes on this port, and nothing at {path[:128]!r}"
            await answer(scope, receive, send, GatewayError(Own.UNKNOWN_URL, message))

    return serve

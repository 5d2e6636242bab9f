"""The front doors of a server: what creates the protocol of each client connection, and the limits it keeps.

Rules:
- Limits may change while connections are open; they hold from the next thing that a client does.
- Whether TLS is spoken, and with which certificate, may change too: for connections that are opened from then on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import resource
import ssl
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState as UvicornState

from gateway.app import Gateway
from gateway.config.schema import Config
from gateway.proxies import Proxies
from gateway.wire.context import ServerContext, ServerState
from gateway.wire.door import Door
from gateway.wire.handshake import Handshake
from gateway.wire.limits import FORM, Limits
from gateway.wire.server import protocol_with


class Front:
    """The factory with which uvicorn creates the protocol of each client connection."""

    def __init__(self, config: Config, gateway: Gateway, aside: int = 0) -> None:
        """Lead plain requests to the endpoints of this gateway, within the limits of this config.

        `aside`: for the port of metrics and probes, where there are no such requests and no TLS, and no more
        connections than that.
        """
        self._gateway = gateway
        self._aside = aside
        self._limits, self._tls = self._settings(config)
        self._keep_alive = config.server.timeouts.keep_alive
        self._full = protocol_with(self._limits, cors=gateway.core.cors, refused=self._refused)
        self._hot = {} if aside else {path.encode(): endpoint for path, endpoint in gateway.hot.items()}
        self._context: ServerContext | None = None

    def limit(self, config: Config) -> None:
        """Keep the limits of another config from now on."""
        self._limits, self._tls = self._settings(config)
        self._full.limits = self._limits
        self._keep_alive = config.server.timeouts.keep_alive
        if self._context is not None:
            self._context.limits, self._context.keep_alive = self._limits, self._keep_alive

    def door(
        self,
        config: uvicorn.Config,
        server_state: UvicornState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Door | Handshake:
        """Return the protocol of one connection."""
        loop = _loop or asyncio.get_running_loop()
        if self._context is None:
            made = functools.partial(self._full, config, server_state, app_state, loop)
            shared = cast(ServerState, server_state)  # its set may hold anything that has a `shutdown` method
            self._context = ServerContext(made, self._hot, self._limits, shared, self._keep_alive)
        if self._tls is None:
            return Door(self._context, loop)
        return Handshake(
            self._context, self._tls, functools.partial(Door, self._context, loop), self._refused, loop
        )

    def _settings(self, config: Config) -> tuple[Limits, ssl.SSLContext | None]:
        """Return the limits of connections, and what TLS is spoken with; None where it is not."""
        limits = _limits(config)
        if self._aside:
            return dataclasses.replace(limits, connections=self._aside), None
        return limits, None if config.server.tls is None else config.server.tls.identity.context

    def _refused(self, reason: str) -> None:
        self._gateway.metrics.requests.refused.cell(reason).value += 1


def _descriptors() -> int:
    """Raise the limit of open files to the most that the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def _limits(config: Config) -> Limits:
    limits, timeouts = config.server.limits, config.server.timeouts
    return Limits(
        body=limits.body,
        upload=0 if config.server.data is None else config.server.batches.file + FORM,
        headers=limits.headers,
        header_count=limits.header_count,
        # Each client may need a connection to an engine too. Without descriptors for these, engines would look dead.
        connections=max(1, min(limits.connections, _descriptors() // 2 - 16)),
        header_seconds=timeouts.headers,
        body_seconds=timeouts.body,
        write_seconds=timeouts.write,
        proxies=Proxies(config.server.trusted_proxies),
    )

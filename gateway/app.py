"""The composition root: builds every part once, connects them, starts and stops them. An ASGI application.

Rules:
- Nothing here decides anything about a request but which endpoint gets it, by one look into a dictionary.
- What is started in `start` is stopped in `stop`, in the reverse order, whatever happens in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections.abc import AsyncIterator, MutableMapping
from random import Random
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI

from gateway.api.admin import Admin
from gateway.api.endpoint import Core, Endpoint
from gateway.api.endpoints import HOT
from gateway.api.web import web, wrong_method
from gateway.config.schema import Config
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.retry import Budget
from gateway.fleet.fleet import Fleet
from gateway.fleet.peers import Alone, Peers
from gateway.fleet.view import BackendView
from gateway.routing import snapshot
from gateway.routing.state import State
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics
from gateway.wire.downstream import Receive, Scope, Send, way_back_of

log = logging.getLogger("gateway.app")

VERSION = importlib.metadata.version("llm-gateway")


class Gateway:
    """The whole gateway."""

    def __init__(self, config: Config, rng: Random | None = None, peers: Peers | None = None) -> None:
        """Build the gateway for a config; nothing runs before the server sends ASGI's lifespan start.

        `rng` breaks ties and spreads probes. `peers` are the processes of this gateway; None: there is only this one.
        """
        rng = rng or Random()
        self._peers = Alone() if peers is None else peers
        self.metrics = Metrics(VERSION)
        self.fleet = Fleet(self.metrics, rng, self._rebuild, self._peers.launches)
        self.pool = self.fleet.pool
        self._state = State(self.pool, self.metrics, rng)
        self._budget = Budget()
        dispatcher = Dispatcher(self.pool, self.metrics, Accounting(self.metrics), self._budget)
        self.core = Core(self._applied(config), dispatcher, self.metrics, self._page)
        self.hot = {path: Endpoint(self.core, operation) for path, operation in HOT.items()}
        self._web = web(self.core, VERSION, self._lifespan)
        self.admin = Admin(self.core, self._backends, self._changed)
        self.admin.add_to(self._web)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if b"%" in (scope.get("raw_path") or b""):
                scope["path"] = _decoded(scope["raw_path"])
            endpoint = self.hot.get(scope["path"])
            if endpoint is not None:
                if scope["method"] == "POST":
                    await endpoint(scope, receive, send)
                else:
                    await self._refuse_method(scope, receive, send)
                return
            wanted = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
            send = _tagged(send, self.core.request_id(wanted))
        await self._web(scope, receive, send)

    async def ready(self) -> list[str]:
        """Wait until some backend can take requests and its models are known; returns the names clients may ask for."""
        while not (self.core.dispatcher.ready() and self.core.snapshot.catalog.everything()):
            await self.pool.change()
        return self.core.snapshot.catalog.everything()

    def drain(self) -> None:
        """The gateway is about to stop: say so where load balancers ask."""
        self.core.draining = True

    def apply(self, config: Config) -> None:
        """Serve by another config from the next request on; those under way finish by the one they began with.

        Its `server` section, but for `auth` and `limits.body`, counts from the next start.

        Raises:
            OptionsError: An engine cannot use its options. Nothing has changed then.
        """
        self.core.snapshot = self._applied(config)

    def _applied(self, config: Config) -> snapshot.Snapshot:
        """Make the live parts fit a config, and return the snapshot that goes with them."""
        self.fleet.apply(config)
        self._budget.share = config.defaults.retry_budget
        return snapshot.build(config, self._state)

    def _rebuild(self) -> None:
        """Build the snapshot anew: a backend has told other models."""
        self.core.snapshot = snapshot.build(self.core.snapshot.config, self._state)

    async def _page(self) -> bytes:
        return await self._peers.page(self.metrics)

    async def _backends(self) -> list[BackendView]:
        return await self._peers.views(self.fleet)

    async def _changed(self, name: str) -> None:
        await self._peers.changed(self.fleet, name)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(self.fleet.run())
        running.add_done_callback(_say_if_broken)
        try:
            yield
        finally:
            self.drain()
            running.cancel()
            await asyncio.wait([running])

    async def _refuse_method(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = way_back_of(scope, receive, send)
        exchange = self.core.uncounted(way, dict(scope["headers"]))
        exchange.end(wrong_method(scope["method"], scope["path"], ((b"allow", b"POST"),)))
        await way.close()


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error(
            "the backends are watched no longer, which is a bug of the gateway", exc_info=task.exception()
        )


def _decoded(path: bytes) -> str:
    """A path as it is compared with routes: decoded but for slashes, which belong to a name and separate nothing."""
    return unquote(path.decode("ascii").replace("%2f", "%2F").replace("%2F", "%252F"))


def _tagged(send: Send, request_id: bytes) -> Send:
    """`send` with the request's id among the answer's headers."""

    async def tagged(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
        await send(message)

    return tagged

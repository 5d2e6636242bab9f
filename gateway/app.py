"""The composition root, an ASGI application: builds every part once, connects them, starts and stops them.

Rules:
- The only decision made here about a request is which endpoint serves it, by one dictionary look-up.
- What the lifespan starts, it also stops, in the reverse order and whatever happens in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Iterable, MutableMapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastapi import FastAPI
from starlette.routing import Route

from backends.base import Headers, Operation
from backends.surfaces.dialects import surface_at, surface_by
from gateway.api import azure, explain, gemini, observed, realtime
from gateway.api.admin import Admin
from gateway.api.background import Background
from gateway.api.batches import Errands
from gateway.api.canaries import CanaryEndpoints
from gateway.api.configuration import ConfigEndpoints
from gateway.api.endpoint import Core, Endpoint
from gateway.api.endpoints import ENDPOINTS, HOT
from gateway.api.files import Keeping
from gateway.api.kept import KeptResponses
from gateway.api.logs import LogEndpoint
from gateway.api.model_pages import ModelPages
from gateway.api.observed import Application
from gateway.api.observing import Observing
from gateway.api.ollama_models import ModelFiles
from gateway.api.orders import OrderEndpoints
from gateway.api.overview import Overview
from gateway.api.passing import EnginePaths
from gateway.api.paths import Paths
from gateway.api.responses import Known, ResponsesEndpoint
from gateway.api.scraping import EnginePages
from gateway.api.visits import Visits
from gateway.api.web import web, wrong_method
from gateway.balance.sessions import AGENT, Source
from gateway.batches.lines import ENDPOINTS as LINES
from gateway.batches.opening import service_of
from gateway.config.batches import Batches
from gateway.config.outcome import InForce
from gateway.config.schema import Config
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.retry import Budget
from gateway.errors import GatewayError
from gateway.fleet.fleet import Fleet
from gateway.fleet.orders import Order
from gateway.fleet.peers import Alone, Peers
from gateway.fleet.remembering import Remembering
from gateway.fleet.ring import Page, Position
from gateway.fleet.view import BackendView
from gateway.machine.machine import Machine
from gateway.routing import snapshot
from gateway.routing.state import State
from gateway.store.opening import engine_memory
from gateway.telemetry.access import AccessLogs
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.lag import Lag
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.page import Pages
from gateway.telemetry.tracing import Traces
from gateway.wire.downstream import Receive, Scope, Send, closing_early, way_back_of

if TYPE_CHECKING:
    from gateway.batches.service import Service
    from gateway.store.store import Store

log = logging.getLogger("gateway.app")

FOLLOW = 1.0
"""Seconds after which the gates of models look at the latest at what their engines tell."""
VERSION = importlib.metadata.version("llm-serving-gateway")
PATHS = {hot.operation: hot.paths[0] for hot in ENDPOINTS} | {Operation.REALTIME: realtime.PATH}
"""The path of each operation, as traces have it."""


class Gateway:
    """The gateway with all its parts."""

    def __init__(
        self,
        config: Config,
        rng: Random | None = None,
        peers: Peers | None = None,
        store: Store | None = None,
    ) -> None:
        """Build the gateway for a config; nothing runs before the server sends ASGI's lifespan startup event.

        `rng` breaks ties between backends and spreads probes in time. `peers` are the processes of this gateway; None
        if this is the only one. `store` is closed at the end of the lifespan; None where the config names none.
        """
        rng = rng or Random()
        self._peers = Alone() if peers is None else peers
        self.in_force = InForce()
        self.metrics = Metrics(VERSION)
        self.fleet = Fleet(self.metrics, rng, self._rebuild, self._peers.launches, wishes=self._peers.wishes)
        self.pool = self.fleet.pool
        self.machine = Machine(self.fleet.launched, self.metrics.machine) if self._peers.launches else None
        """What the machine tells, where this process is the one to ask it."""
        if self.fleet.keeper is not None:
            self.fleet.keeper.machine = self.machine
            if store is not None:
                self.fleet.keeper.remembering = Remembering(engine_memory(store))
        self._state = State(self.pool, self.metrics, rng)
        self._state.processes = self._peers.serving
        self._budget = Budget()
        dispatcher = Dispatcher(self.pool, self.metrics, Accounting(self.metrics), self._budget)
        self.core = Core(
            self._applied(config),
            dispatcher,
            self.metrics,
            {as_: Pages(partial(self._page, as_)) for as_ in (False, True)},
        )
        self.core.discovery = self.fleet.discovery
        self._background: Background | None = None
        if store is not None:
            self.core.store = store
            kept = self.core.kept = KeptResponses(store, self._age, lambda: self._peers.serving)
            self._background = Background(self.core, kept, store, self._age)
        self.hot = {path: self._endpoint(operation) for path, operation in HOT.items()}
        self.kept: Service | None = None if store is None else self._service(store)
        """Files and batches; None where nothing is kept."""
        self._web = web(self.core, VERSION, self._lifespan, Keeping(self.core, self.kept), self._background)
        self.admin = Admin(self.core, self._backends, self._changed)
        self.overview = Overview(self.core, VERSION, self.in_force, self._state.canaries)
        self._add_operating()
        served = [route.path for route in self._web.routes if isinstance(route, Route)]
        self._paths = Paths([*self.hot, realtime.PATH, *served])
        self._realtime = realtime.Realtime(self.core)
        self._access = AccessLogs(Source(AGENT).find)
        self._traces = Traces(dispatcher.accounting, PATHS, VERSION)
        self._visits = Visits()
        self._serving = False
        self._lag = Lag()
        lag = self.metrics.program.loop_lag.cell()
        self.metrics.before_scrape(lambda: setattr(lag, "value", self._lag.longest))

    def _add_operating(self) -> None:
        """Add the endpoints of operators to the pages."""
        web = self._web
        Observing(self.admin, self._asked).add_to(web)
        CanaryEndpoints(self.admin, self._asked).add_to(web)
        OrderEndpoints(self.admin, self._order).add_to(web)
        EnginePages(self.fleet).add_to(web)
        EnginePaths(self.admin).add_to(web)
        ModelPages(self.admin).add_to(web)
        LogEndpoint(self.admin, self._printed).add_to(web)
        self.admin.add_to(web)
        ModelFiles(self.admin).add_to(web)
        explain.add_to(web, self.core, self.admin)
        ConfigEndpoints(self.admin, self.in_force, self._peers.reload, self._profile).add_to(web)

    def _service(self, store: Store) -> Service:
        """Return the files and batches of a store, whose lines this gateway answers."""
        endpoints = {HOT[path]: endpoint for path, endpoint in self.hot.items() if path in LINES}
        errands = Errands(self.core, endpoints)

        def settings() -> tuple[Batches, int]:
            server = self.core.snapshot.config.server
            return server.batches, server.limits.body

        return service_of(store, errands.send, self.metrics.batches, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope: a request for an engine directly, anything else through FastAPI."""
        if scope["type"] == "http":
            headers: dict[bytes, bytes] = dict(scope["headers"])
            origins = self.core.snapshot.origins
            if b"%" in (scope.get("raw_path") or b""):
                scope["path"] = _decoded(scope["raw_path"])
            endpoint = self._meant(scope)
            gemini.take_key(scope)
            if scope["method"] == "OPTIONS" and (allowed := origins.preflight(headers)):
                await self.answer(scope, receive, send, allowed)
                return
            if endpoint is not None:
                method = "GET" if endpoint is self._realtime else "POST"
                if scope["method"] == method:
                    await endpoint(scope, receive, send)
                else:
                    error = wrong_method(scope["method"], scope["path"], ((b"allow", method.encode()),))
                    await self.answer(scope, receive, send, error)
                return
            try:
                observed.check(self.core, scope, headers)
            except GatewayError as error:
                await self.answer(scope, receive, send, error)
                return
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET", "gateway.method": "HEAD"}
            request_id = scope["gateway.request_id"] = self.core.request_id(headers.get(b"x-request-id"))
            marks = surface_by(headers.get(b"anthropic-version")).marks(request_id)
            send = self._tagged(scope, send, (*marks, *origins.answering(headers)))
        await self._web(scope, receive, send)

    def _endpoint(self, operation: Operation) -> Endpoint:
        kept, background = self.core.kept, self._background
        is_kept = operation in (Operation.RESPONSES, Operation.INPUT_TOKENS)
        if is_kept and kept is not None and background is not None:
            return ResponsesEndpoint(self.core, Known(kept, background), operation)
        return Endpoint(self.core, operation)

    def _age(self) -> int:
        """Return for how many seconds responses are kept."""
        data = self.core.snapshot.config.server.data
        assert data is not None
        return data.keep

    def _meant(self, scope: Scope) -> Application | None:
        """Return what serves the path of a request for an engine, which is written as the reference has it then."""
        endpoint = self.hot.get(scope["path"])
        if endpoint is not None:
            return endpoint
        path, deployment = azure.meant(scope["path"])
        scope["path"] = self._paths.meant(path)
        if scope["path"] == realtime.PATH:
            return self._realtime
        endpoint = self.hot.get(scope["path"])
        if endpoint is None:
            return gemini.endpoint_of(self.core, scope)
        return endpoint.at(deployment) if deployment else endpoint

    async def ready(self) -> list[str]:
        """Wait until some backend can take requests and its models are known; return the names clients may ask for."""
        while not (self.core.dispatcher.ready() and self.core.snapshot.catalog.everything()):
            await self.pool.change()
        return self.core.snapshot.catalog.everything()

    def drain(self) -> None:
        """Report at `/readyz`, which load balancers poll, that the gateway is about to stop.

        All shadows end, and no line of a batch begins.
        """
        self.core.draining = True
        self.core.dispatcher.shadows.stop()
        if self.kept is not None:
            self.kept.runner.drain()

    def apply(self, config: Config) -> None:
        """Replace the config for requests that begin from now on; running ones finish with the old one.

        Of its `server` section this applies what concerns requests; `gateway.adopt` does the rest.

        Raises:
            OptionsError: An engine cannot use its options. Nothing has changed then.
        """
        self.core.snapshot = self._applied(config)
        if self._serving:
            self._watch(config)

    def _watch(self, config: Config) -> None:
        """Have requests that begin from now on be logged and traced as a config says."""
        self.core.sampler = self._traces.apply(config)
        sink = self.core.dispatcher.accounting if self.core.sampler is None else self._traces
        self.core.sink = self._access.apply(config, sink)

    def use_profile(self, name: str | None) -> None:
        """Have this profile of the config be active, or none, for requests that begin from now on."""
        self._state.profile = name if name in self.core.snapshot.config.profiles else None
        self._rebuild()
        self.in_force.profile = self._state.profile

    async def _profile(self, name: str | None) -> None:
        await self._peers.profile(self.use_profile, name)

    def _applied(self, config: Config) -> snapshot.Snapshot:
        """Apply a config to the parts that outlive a snapshot, and return the snapshot built from it."""
        self.fleet.apply(config)
        self._budget.share = config.defaults.retry_budget
        self.metrics.gen_ai.on = config.server.metrics.gen_ai
        if self._state.profile not in config.profiles:
            self._state.profile = self.in_force.profile = None
        return snapshot.build(config, self._state)

    def _rebuild(self) -> None:
        """Rebuild the snapshot, because a backend reported other models than before."""
        self.core.snapshot = snapshot.build(self.core.snapshot.config, self._state)

    async def _page(self, openmetrics: bool) -> Iterable[str]:
        return await self._peers.page(self.metrics, openmetrics)

    async def _backends(self) -> list[BackendView]:
        return await self._peers.views(self.fleet)

    async def _order(self, order: Order) -> None:
        await self._peers.order(self.fleet, order)

    async def _asked(self, kind: str, arguments: dict[str, Any]) -> Any:
        return await self._peers.asked(kind, arguments, self.overview.own)

    async def _printed(self, name: str, at: Position, patience: float) -> Page | None:
        return await self._peers.printed(self.fleet, name, at, patience)

    async def _changed(self, name: str) -> None:
        await self._peers.changed(self.fleet, name)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._serving = True
        self._watch(self.core.snapshot.config)
        self._lag.start()
        tasks = [asyncio.create_task(self.fleet.run()), asyncio.create_task(self._follow())]
        for task in tasks:
            task.add_done_callback(_say_if_broken)
        if self.machine is not None:
            tasks.append(asyncio.create_task(self.machine.run()))
        if self.core.kept is not None:
            tasks.append(asyncio.create_task(self.core.kept.run()))
        if self._background is not None:
            tasks.append(asyncio.create_task(self._background.run()))
        if self.kept is not None:
            tasks.append(asyncio.create_task(self.kept.runner.run()))
        try:
            yield
        finally:
            self.drain()
            self._lag.stop()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.core.sink, self.core.sampler = self.core.dispatcher.accounting, None
            self._access.close()
            await asyncio.to_thread(self._traces.close)
            if self.core.kept is not None and self.core.store is not None:
                if self._background is not None:
                    await self._background.close()
                await self.core.kept.close()
                await self.core.store.close()

    async def _follow(self) -> None:
        """Have the gates of models follow what their engines tell and how they are, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW):
                    await self.pool.change()
            self._state.follow()

    async def answer(self, scope: Scope, receive: Receive, send: Send, what: Headers | GatewayError) -> None:
        """Answer a request that no endpoint sees: with an error, or with headers and nothing else."""
        way = way_back_of(scope, receive, send)
        headers = dict(scope["headers"])
        surface = surface_at(
            scope["path"], headers.get(b"anthropic-version"), gemini.CLIENT.encode() in headers
        )
        exchange = self.core.uncounted(way, headers, surface)
        if isinstance(what, GatewayError):
            exchange.end(what)
        else:
            exchange.reply(200, what, b"")
            exchange.end()
        await way.close()

    def _tagged(self, scope: Scope, send: Send, headers: Headers) -> Send:
        """Return `send` wrapped so that it adds `headers`, and whether the connection closes behind the answer."""

        async def tagged(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers, *closing_early(scope)]
                self._visits.answered(scope["method"], scope["path"], message["status"])
            await send(message)

        return tagged


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error(
            "the backends are watched no longer, which is a bug of the gateway", exc_info=task.exception()
        )


def _decoded(path: bytes) -> str:
    """Return a path decoded for routing, except encoded slashes: these are part of a model's name, not separators."""
    return unquote(path.decode("ascii").replace("%2f", "%2F").replace("%2F", "%252F"))

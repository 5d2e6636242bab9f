"""The endpoints of the operations that engines perform: from a request's head and body to the dispatcher.

Rules:
- Every request passes the same three steps `open`, `admit` and `accept`, whether the front door or ASGI received it. An
  error in any of them ends the request through `gateway.request.Exchange.end`.
- Of the client's headers only the trace context is forwarded to an engine, and those that belong to the API.
"""

from __future__ import annotations

import asyncio
from binascii import hexlify
from collections.abc import Mapping
from os import urandom
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

import msgspec
from mypy_extensions import mypyc_attr

from backends.base import Headers, Operation, Request
from backends.dialect.openai import FORMS
from backends.surfaces import naming
from backends.surfaces.codecs import CODECS
from backends.surfaces.dialects import surface_of
from backends.surfaces.openai import OPENAI
from backends.surfaces.surface import Surface
from gateway.api import staying
from gateway.api.reading import LARGE, Asking, Decoding, Reading
from gateway.asked import Asked
from gateway.auth import CREDENTIALS, Caller
from gateway.dispatch.dispatcher import Dispatcher
from gateway.errors import GatewayError, Own
from gateway.fleet.discovery import Discovery
from gateway.proxies import HEADER
from gateway.request import Exchange, FinishedSink, Register, WayBack
from gateway.routing.snapshot import Snapshot
from gateway.telemetry.cells import NONE
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.page import Pages
from gateway.telemetry.timeline import AUTH, RECEIVE, ROUTE
from gateway.telemetry.trace import Sampler
from gateway.wire.codings import coding_of
from gateway.wire.downstream import Receive, Scope, Send, way_back_of

if TYPE_CHECKING:
    from gateway.api.kept import KeptResponses
    from gateway.store.store import Store

_TRACE: Final = (b"traceparent", b"tracestate")
_LONGEST_TRACE: Final = 512
"""Most bytes of a trace header. W3C's Trace Context requires that at least 512 are forwarded."""
_LONGEST_FORWARDED: Final = 1024
"""Most bytes of any other header that is forwarded."""
_ID_CHARACTERS: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.:/+=")


_OLLAMAS: Final = frozenset(
    (Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE, Operation.OLLAMA_EMBED, Operation.OLLAMA_EMBEDDINGS)
)
"""The operations whose requests may say how long their model stays loaded."""
_COUNTED: Final = (Operation.COUNT_TOKENS, Operation.INPUT_TOKENS, Operation.GEMINI_COUNT_TOKENS)
"""Operations for which an estimate is an answer."""


class Core:
    """The parts of the gateway that all endpoints share.

    `snapshot` is never changed, only replaced as a whole. `pages` makes the metrics page, in Prometheus' text
    format and (True) as OpenMetrics; with several workers it shows the sums of all.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        dispatcher: Dispatcher,
        metrics: Metrics,
        pages: Mapping[bool, Pages],
    ) -> None:
        self.snapshot: Snapshot = snapshot
        self.dispatcher: Dispatcher = dispatcher
        self.metrics: Metrics = metrics
        self.pages: Mapping[bool, Pages] = pages
        self.draining: bool = False
        self.has_aside: bool = False
        """Whether metrics have a port of their own now."""
        self.discovery: Discovery | None = None
        """Asks engines for models that nobody knows; None where nothing is asked."""
        self.register: Register = Register()
        self.sink: FinishedSink = dispatcher.accounting
        self.sampler: Sampler | None = None
        """Begins the traces of requests; None where none are made."""
        self.store: Store | None = None
        """What outlives requests; None where the config has no `server.data`."""
        self.kept: KeptResponses | None = None
        """The responses in it."""

    def may_appear(self, name: str, caller: Caller) -> bool:
        """Tell whether it is worth asking the engines for a model that nobody knows."""
        discovery = self.discovery
        if discovery is None or not self.snapshot.catalog.may_appear(name, caller):
            return False
        return discovery.worthwhile(asyncio.get_running_loop().time())

    def request_id(self, wanted: bytes | None) -> bytes:
        """Return the id that the client sent if it is short and of safe characters, else a new random one."""
        if wanted is not None and 0 < len(wanted) <= 128 and _ID_CHARACTERS.issuperset(wanted):
            return wanted
        return b"req-" + hexlify(urandom(12))

    def cors(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return the headers of an answer that let the page behind a request with these headers read it."""
        return self.snapshot.origins.answering(headers)

    def uncounted(self, way: WayBack, headers: Mapping[bytes, bytes], surface: Surface = OPENAI) -> Exchange:
        """Return a request that is answered like any other but counted in no metric."""
        exchange = Exchange(way, perf_counter_ns(), self.register, UNCOUNTED)
        exchange.id = self.request_id(headers.get(b"x-request-id"))
        exchange.headers = headers
        exchange.cors = self.cors(headers)
        exchange.surface = surface
        return exchange


class _NullSink:
    """A sink that counts nothing."""

    def finished(self, exchange: Exchange) -> None:
        """Do nothing."""


UNCOUNTED: Final = _NullSink()


class Admission:
    """The result of the checks on a request's head.

    It is valid for every request with the same head, for as long as the snapshot is the same.
    """

    __slots__ = ("caller", "coding", "snapshot", "trace")

    def __init__(self, snapshot: Snapshot, caller: Caller, trace: bytes, coding: bytes) -> None:
        self.snapshot: Snapshot = snapshot
        self.caller: Caller = caller
        self.trace: bytes = trace
        self.coding: bytes = coding


@mypyc_attr(allow_interpreted_subclasses=True)
class Endpoint:
    """The endpoint of one operation: both a handler for the front door and an ASGI application."""

    __slots__ = ("_core", "_deployment", "_operation", "_surface")

    def __init__(self, core: Core, operation: Operation, deployment: str = "") -> None:
        """Serve an operation; with `deployment`, the name in Azure's paths, for this model whatever the body names."""
        self._core: Core = core
        self._operation: Operation = operation
        self._surface: Surface = surface_of(operation)
        self._deployment: str = deployment

    def at(self, deployment: str) -> Endpoint:
        """Return the same endpoint for one deployment of Azure's paths."""
        return Endpoint(self._core, self._operation, deployment)

    def open(self, way: WayBack, headers: Mapping[bytes, bytes], began: int) -> Exchange:
        """Return the request that begins with this head.

        `began` is the time at which its first byte was read, in nanoseconds of the timeline's clock.
        """
        core = self._core
        exchange = Exchange(way, began, core.register, core.sink)
        exchange.id = core.request_id(headers.get(b"x-request-id"))
        exchange.headers = headers
        exchange.cors = core.cors(headers)
        exchange.surface = self._surface
        exchange.operation = self._operation
        exchange.may_estimate = self._operation in _COUNTED
        if core.sampler is not None:
            traced = exchange.traced = core.sampler.begin(headers)
            if traced.is_sampled:
                exchange.timeline.keep_journal()
        return exchange

    def admit(self, exchange: Exchange, known: object = None) -> object:
        """Check a request's head before its body is read. Raises GatewayError or InvalidRequest.

        Returns the result of the checks. Passed as `known` for the next request with the same head, it saves repeating
        them.
        """
        exchange.timeline.mark(AUTH)
        snapshot = self._core.snapshot
        if isinstance(known, Admission) and known.snapshot is snapshot:
            admission = known
        else:
            headers = exchange.headers
            snapshot.origins.check(headers)
            caller = snapshot.keys.identify(headers)
            # A browser asks before it sends JSON for a page of another origin, but not before a body without a type.
            usual = b"" if b"origin" in headers else _usual(self._operation)
            self._surface.check(self._operation, headers.get(b"content-type", usual))
            admission = Admission(snapshot, caller, _trace(headers), coding_of(headers))
        self._let_in(exchange, admission)
        return admission

    def take_for(self, exchange: Exchange, caller: Caller) -> None:
        """Let in a request that the gateway itself makes for a caller, instead of `admit`."""
        exchange.timeline.mark(AUTH)
        self._let_in(exchange, Admission(self._core.snapshot, caller, b"", b""))

    def _let_in(self, exchange: Exchange, admission: Admission) -> None:
        exchange.caller = admission.caller
        exchange.key = admission.caller.name
        traced = exchange.traced
        exchange.trace = admission.trace if traced is None else traced.passed_on(admission.trace)
        exchange.coding = admission.coding

    def accept(self, exchange: Exchange, body: bytes) -> None:
        """Route a complete request and dispatch it. Raises nothing: an error ends the request."""
        if exchange.coding:
            exchange.timeline.mark(RECEIVE)
            Decoding(exchange, self._core.snapshot.config.server.limits.body, self._accept).begin(body)
        else:
            self._accept(exchange, body)

    def _accept(self, exchange: Exchange, body: bytes) -> None:
        """Route and dispatch a request whose body is plain; a large one in several turns of the loop."""
        exchange.timeline.mark(ROUTE)
        most = self._core.snapshot.config.server.limits.values
        if len(body) > min(LARGE, most) and self._operation not in FORMS:
            Reading(exchange, most, self._read, self._route).begin(body)
            return
        try:
            self._read(exchange, body)
        except Exception as error:  # noqa: BLE001 (any error ends this request only)
            exchange.end(error)
            return
        self._route(exchange)

    def _route(self, exchange: Exchange) -> None:
        """Route a request that was read, and dispatch it; first have the engines asked if it names a new model."""
        try:
            self._decide(exchange)
        except GatewayError as error:
            if error.kind is not Own.UNKNOWN_MODEL:
                exchange.end(error)
            elif self._core.may_appear(exchange.request.model, exchange.caller):
                assert self._core.discovery is not None
                Asking(exchange, self._core.discovery, self._stand_in).begin(b"")
            else:
                self._stand_in(exchange)
        except Exception as error:  # noqa: BLE001 (as above)
            exchange.end(error)
        else:
            self._run(exchange)

    def _run(self, exchange: Exchange) -> None:
        """Dispatch a request, unless all that it asks for is that its model is unloaded."""
        if self._operation in _OLLAMAS:
            try:
                if staying.heeded(exchange):
                    return
            except Exception as error:  # noqa: BLE001 (any error ends this request only)
                exchange.end(error)
                return
        self._core.dispatcher.run(exchange)

    def _stand_in(self, exchange: Exchange) -> None:
        """Route a request again; where nobody knows its model even now, for the one that the config has for that."""
        try:
            self._decide(exchange)
        except GatewayError as error:
            instead = self._core.snapshot.config.defaults.unknown_model
            if error.kind is not Own.UNKNOWN_MODEL or instead is None:
                exchange.end(error)
                return
            try:
                self._take(exchange, naming.renamed(exchange.request, instead))
                self._decide(exchange)
            except Exception:  # noqa: BLE001 (what the client is told is that its own model is unknown)
                exchange.end(error)
                return
        except Exception as error:  # noqa: BLE001 (as above)
            exchange.end(error)
            return
        self._run(exchange)

    def _read(self, exchange: Exchange, body: bytes) -> None:
        operation = self._operation
        content_type = exchange.headers.get(b"content-type", b"")
        deployment = self._deployment
        model = deployment or self._core.snapshot.config.defaults.model
        request = naming.read(self._surface, operation, content_type, body, model)
        if deployment and request.model != deployment:
            request = naming.renamed(request, deployment)
        if self._surface.forwarded or operation in CODECS:
            headers = exchange.headers
            request = msgspec.structs.replace(
                request,
                headers=_forwarded(headers, self._surface.forwarded),
                translate=headers.get(b"x-gateway-translate") == b"always",
            )
        self._take(exchange, request)

    def _take(self, exchange: Exchange, request: Request) -> None:
        """Take note of what is asked for."""
        exchange.request = request
        exchange.asked = Asked(request, exchange.headers, exchange.caller)

    def _decide(self, exchange: Exchange) -> None:
        """Find out where a request goes. Raises GatewayError where it may go nowhere."""
        router = self._core.snapshot.router
        decision = router.decide(exchange.asked, exchange.way.loop.time())
        plan = decision.plan
        exchange.model = plan.model
        exchange.groups = router.able(plan, exchange.asked)
        exchange.decision = decision
        exchange.route = decision.rule or NONE
        if decision.trial is not None:
            decision.trial.watch(exchange, decision.is_canary)
        exchange.plan = plan
        if decision.shadow is not None and self._operation is not Operation.REALTIME:
            self._core.dispatcher.shadows.send(exchange, decision.shadow, decision.rule)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that came through ASGI."""
        way = way_back_of(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = self.open(way, headers, perf_counter_ns())
        exchange.task = asyncio.current_task()
        try:
            exchange.headers = headers_of(scope)
            self.admit(exchange)
            exchange.timeline.mark(RECEIVE)
            body = await way.body(self._core.snapshot.config.server.limits.body)
        except asyncio.CancelledError:
            # The request's task ends here, so the cancellation has done its work and need not be raised further.
            exchange.end(exchange.interrupted or GatewayError(Own.DRAINING, "the gateway is shutting down"))
        except Exception as error:  # noqa: BLE001 (as above)
            exchange.end(error)
        else:
            exchange.task = None
            self.accept(exchange, body)
            await exchange.ended()
        await way.close()


def _usual(operation: Operation) -> bytes:
    """Return the content type assumed for a body without one; empty for forms, which always need one."""
    return b"" if operation in FORMS else b"application/json"


def _forwarded(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> Headers:
    """Return the client's headers of these names that an engine gets."""
    found = [(name, headers.get(name, b"")) for name in names]
    return tuple(
        (name, value) for name, value in found if value.isascii() and 0 < len(value) <= _LONGEST_FORWARDED
    )


def _trace(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the header lines of the trace context that are forwarded to the engine."""
    lines = b""
    for name in _TRACE:
        value = headers.get(name)
        if value is not None and len(value) <= _LONGEST_TRACE and value.isascii():
            lines += name + b": " + value + b"\r\n"
    return lines


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers of a request that came through ASGI. Raises GatewayError if it says twice who asks."""
    pairs = scope["headers"]
    headers: dict[bytes, bytes] = dict(pairs)
    if len(headers) != len(pairs):
        for name in CREDENTIALS:
            if name in headers and sum(each == name for each, _ in pairs) > 1:
                message = f"more than one {name.decode().title()} header"
                raise GatewayError(Own.INVALID, message, code="invalid_http")
        if HEADER in headers:
            # Some proxies add to it by a line of their own.
            headers[HEADER] = b",".join(value for name, value in pairs if name == HEADER)
    return headers

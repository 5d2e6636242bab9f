"""OpenAI's endpoints as raw ASGI: from a scope to an answer, for the operations engines carry out.

Rules:
- One way in for every operation: identify, read, decode, resolve, dispatch. What fails becomes an OpenAI error here.
- Nothing of the client's headers reaches an engine but the trace context.
- Every request ends in exactly one call of `_finished`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from backends.base import Operation
from backends.dialect.openai import FORMS
from gateway.api import body, form
from gateway.dispatch.dispatcher import Dispatcher, Record
from gateway.errors import GatewayError, Own
from gateway.routing.snapshot import Snapshot
from gateway.telemetry.metrics import Metrics
from gateway.wire.downstream import ClientLeft, Downstream, Receive, Scope, Send, downstream_of
from gateway.wire.relay import JSON_HEADERS

log = logging.getLogger("gateway.api")

_TRACE = (b"traceparent", b"tracestate")
_LONGEST_TRACE = 512
"""Bytes; what W3C's Trace Context asks everybody to pass on."""
_ID_CHARACTERS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.:/+=")


@dataclass(slots=True)
class Core:
    """What the endpoints work with; `snapshot` is replaced as a whole."""

    snapshot: Snapshot
    dispatcher: Dispatcher
    metrics: Metrics
    page: Callable[[], Awaitable[bytes]]
    """The metrics page; with several workers it shows the numbers of all."""
    draining: bool = False
    _prefix: str = field(default_factory=lambda: secrets.token_hex(5))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def request_id(self, wanted: bytes | None) -> str:
        """The client's own id if it is a harmless one, else a new one, unique across processes."""
        if wanted is not None and 0 < len(wanted) <= 128 and _ID_CHARACTERS.issuperset(wanted):
            return wanted.decode()
        return f"req-{self._prefix}{next(self._numbers):08x}"


class Endpoint:
    """One operation's endpoint, an ASGI application for its path."""

    def __init__(self, core: Core, operation: Operation) -> None:
        self._core = core
        self._operation = operation
        self._form = operation in FORMS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._core
        headers = dict(scope["headers"])
        downstream = downstream_of(scope, receive, send)
        record = Record(core.request_id(headers.get(b"x-request-id")), self._operation.value)
        try:
            await self._serve(scope, headers, downstream, record, downstream.loop.time)
        except GatewayError as error:
            record.outcome = error.outcome
            _break_off(downstream, error, record)
        except ClientLeft:
            record.outcome = "client_gone"
        except asyncio.CancelledError:
            # This is the end of the request's task: it has obeyed, and nobody else needs to hear of it.
            if downstream.gone:
                record.outcome = downstream.why_gone
            else:
                record.outcome = "overloaded"
                _break_off(downstream, GatewayError(Own.DRAINING, "the gateway is shutting down"), record)
        except Exception:
            log.exception("request %s failed in the gateway", record.id)
            record.outcome = "internal_error"
            bug = GatewayError(Own.INTERNAL, "the gateway failed; its log has this request's id")
            _break_off(downstream, bug, record)
        finally:
            self._finished(record, downstream.loop.time())
            await downstream.close()

    async def _serve(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        downstream: Downstream,
        record: Record,
        clock: Callable[[], float],
    ) -> None:
        snapshot = self._core.snapshot
        record.received = clock()
        caller = snapshot.keys.identify(one_authorization(scope, headers))
        _check_content(headers, self._form)
        data = await downstream.body(snapshot.config.server.limits.body)
        record.received = clock()
        operation = self._operation
        kind = headers[b"content-type"] if self._form else b""
        request = form.decode(operation, data, kind) if kind else body.decode(operation, data)
        plan = snapshot.catalog.resolve(request.model, caller)
        if operation not in plan.candidates:
            record.model = plan.model
            raise snapshot.catalog.unsupported(plan, operation, caller)
        extra = b""
        for name in _TRACE:
            value = headers.get(name)
            if value is not None and len(value) <= _LONGEST_TRACE and value.isascii():
                extra += name + b": " + value + b"\r\n"
        await self._core.dispatcher.run(request, plan, caller, downstream, record, extra)

    def _finished(self, record: Record, now: float) -> None:
        metrics = self._core.metrics
        metrics.requests.cell(record.model, record.backend, record.operation, record.outcome).value += 1
        if record.received:
            metrics.duration.cell(record.model, record.backend).observe(now - record.received)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s at %s: %s", record.id, record.model, record.backend, record.outcome)


def one_authorization(scope: Scope, headers: dict[bytes, bytes]) -> bytes | None:
    """The request's `Authorization` header. Raises GatewayError if there are two."""
    found = headers.get(b"authorization")
    repeated = found is not None and len(headers) != len(scope["headers"])
    if repeated and sum(name == b"authorization" for name, _ in scope["headers"]) > 1:
        raise GatewayError(Own.INVALID, "more than one Authorization header", code="invalid_http")
    return found


def _check_content(headers: dict[bytes, bytes], wants_form: bool) -> None:
    kind = headers.get(b"content-type", b"application/json")
    if wants_form:
        form.check_type(kind)
    elif kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError(
            Own.MEDIA_TYPE, "the body must be JSON: send the header 'Content-Type: application/json'"
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise GatewayError(Own.MEDIA_TYPE, "a compressed body is not accepted")


def refuse(downstream: Downstream, error: GatewayError, request_id: str) -> None:
    """Answer with an error. Nothing else was answered yet."""
    downstream.reply(
        error.status, [*JSON_HEADERS, (b"x-request-id", request_id.encode()), *error.headers()], error.body()
    )


def _break_off(downstream: Downstream, error: GatewayError, record: Record) -> None:
    """End an answer that cannot go on, wherever it is."""
    if downstream.started:
        downstream.write(error.event(record.operation))
        downstream.abort()
    else:
        refuse(downstream, error, record.id)

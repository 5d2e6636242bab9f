"""The way to an OpenTelemetry collector: finished requests wait in a bounded queue, a thread sends their spans.

Rules:
- Imported only where `server.tracing` is configured: it needs the extra `otel`.
- Nobody waits for a collector. Requests beyond the bound are left out of the traces, each with all of its spans; a stop
  waits `PATIENCE` at most.
- A collector that fails is told of once, and once when it takes traces again, with how many requests are missing.
- What OpenTelemetry's own environment variables say holds where the config says nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry import conventions
from gateway.telemetry.spans import Ended, Span, spans

log = logging.getLogger("gateway.traces")

ROOM: Final = 2048
"""Most requests that wait to be sent."""
BATCH: Final = 64
"""Requests that are sent at once: about 600 spans."""
DELAY: Final = 1.0
"""Most seconds that a request waits while the collector is well."""
PATIENCE: Final = 1.0
"""Seconds that a stop waits for what is still to be sent."""

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FINE: Final = Status(StatusCode.UNSET)

Export = Callable[[Sequence[ReadableSpan]], SpanExportResult]


class Collector:
    """A collector that traces are sent to, from a thread that starts with the first request."""

    def __init__(
        self, endpoint: str | None, headers: Mapping[str, str], service: str | None, version: str
    ) -> None:
        """Send to this URL with these headers, as a service of this name and version.

        None means what the environment says, or what is usual.
        """
        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers))
        self._reason = _silenced()
        self._resource = _resource(service, version)
        self._scope = InstrumentationScope(conventions.SCOPE, version, conventions.SCHEMA)
        self._waiting: deque[Ended] = deque()
        self._changed = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._lost = 0
        """Requests that were left out since the last time that was told."""
        self._is_failing = False

    def put(self, request: Ended) -> None:
        """Send the spans of a request soon, or never where too many wait already."""
        if len(self._waiting) >= ROOM or self._closing:
            self._lost += 1
            return
        self._waiting.append(request)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()
        if len(self._waiting) >= BATCH:
            self._changed.set()

    def end(self) -> None:
        """Send what waits, then end the thread. Nobody waits for that."""
        self._closing = True
        self._changed.set()

    def close(self, patience: float = PATIENCE) -> None:
        """Send what waits, at most for `patience` seconds, and end the thread. What is not sent by then is lost."""
        self.end()
        if self._thread is not None:
            self._thread.join(patience)
            if self._thread.is_alive():
                self._waiting.clear()
                self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it makes no further attempt

    def _run(self) -> None:
        while not (self._closing and not self._waiting):
            if not self._closing and len(self._waiting) < BATCH:
                self._changed.wait(DELAY)
                self._changed.clear()
            batch: list[Ended] = []
            with contextlib.suppress(IndexError):  # no more wait
                while len(batch) < BATCH:
                    batch.append(self._waiting.popleft())
            if batch:
                self._send(batch)

    def _send(self, batch: list[Ended]) -> None:
        self._reason.text = ""
        try:
            made = [self._made(span, request) for request in batch for span in spans(request)]
            taken = self._exporter.export(made) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 (whatever it is, the thread goes on)
            taken, self._reason.text = False, type(error).__name__
        if not taken:
            self._lost += len(batch)
            if not self._is_failing and not self._closing:
                self._is_failing = True
                log.warning(
                    "the collector takes no traces, which are lost until it does: %s", self._reason.text
                )
        elif self._lost and len(self._waiting) < ROOM // 2:
            lost, self._lost = self._lost, 0
            self._is_failing = False
            log.warning("the collector takes traces; it was not told of %d requests", lost)

    def _made(self, span: Span, request: Ended) -> ReadableSpan:
        trace_id = int(request.trace.trace_id, 16)
        parent = (
            SpanContext(trace_id, int(span.parent, 16), span.kind == "server", _SAMPLED)
            if span.parent
            else None
        )
        return ReadableSpan(
            span.name,
            SpanContext(trace_id, int(span.span_id, 16), False, _SAMPLED),
            parent,
            self._resource,
            span.attributes,
            kind=_KINDS[span.kind],
            status=_FINE if span.fault is None else Status(StatusCode.ERROR, span.fault),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _resource(service: str | None, version: str) -> Resource:
    """Return what all spans of this process have in common."""
    told = {"service.version": version, "service.instance.id": str(uuid.uuid4())}
    if service is not None:
        told[_SERVICE] = service
    found = Resource.create(told)
    if str(found.attributes[_SERVICE]).startswith("unknown_service"):
        return found.merge(Resource({_SERVICE: conventions.SERVICE}))
    return found


_SERVICE: Final = "service.name"


class _Reason(logging.Handler):
    """Keeps what the exporter says of its last failure, instead of a line in the log for each."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of a record."""
        self.text = record.getMessage()


def _silenced() -> _Reason:
    """Return what hears the exporter's own log from now on, and nobody else."""
    logger, reason = logging.getLogger("opentelemetry"), _Reason()
    logger.handlers = [reason]
    logger.propagate = False
    return reason

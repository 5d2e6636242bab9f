"""A real receiver of OTLP over HTTP for tests: it decodes what an OpenTelemetry collector would get.

Rules:
- It runs in threads of its own, so that what is tested is not delayed by being observed.
- It can be a bad one: refuse, or hang.
"""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Behaviour = Literal["take", "refuse", "hang"]


@dataclass
class Received:
    """A span as it arrived."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    error: str | None
    resource: dict[str, Any]

    @property
    def duration(self) -> int:
        return self.end - self.start


class Receiver:
    """Listens on a free port while the context is open."""

    def __init__(self, behaviour: Behaviour = "take") -> None:
        self.behaviour: Behaviour = behaviour
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take(
                    self.path, {name.lower(): value for name, value in self.headers.items()}, body
                )
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer."""
        self.paths.append(path)
        self.headers.append(headers)
        if self.behaviour == "hang":
            self._released.wait(30)
        if self.behaviour != "take":
            return 400
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.bodies.append(plain)
        request = ExportTraceServiceRequest.FromString(plain)
        found: list[Received] = []
        for of_resource in request.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            found += (_received(span, resource) for scope in of_resource.scope_spans for span in scope.spans)
        # At once: whoever waits for the span of a request finds those below it too.
        self.spans += found
        return 200

    def requests(self) -> list[Received]:
        """Return the spans of requests, without those below them."""
        return [span for span in self.spans if span.kind == 2]

    def below(self, parent: Received) -> list[Received]:
        """Return the spans right below another one, in the order of their times."""
        found = [span for span in self.spans if span.parent == parent.span_id]
        return sorted(found, key=lambda span: (span.start, span.end))


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")


def _received(span: Span, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _plain(span.attributes),
        span.status.message if span.status.code == 2 else None,
        resource,
    )

"""The traces of requests, as the config has them: which requests are recorded, and where they are sent.

Rules:
- Off, it costs nothing. On, a request that is not recorded costs two random numbers, and one that is costs what keeping
  its times costs until it has ended; then one value goes to the collector's thread.
- The collector is there while the config says so. A reload that says something else begins another one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from backends.base import Operation
from gateway.config.schema import Config
from gateway.config.tracing import Tracing
from gateway.request import Exchange, FinishedSink
from gateway.telemetry.spans import Ended, ended
from gateway.telemetry.trace import Sampler

_COLLECTOR: Final = "gateway.telemetry.collector"


class Collecting(Protocol):
    """Where finished requests go, as `gateway.telemetry.collector.Collector` has it."""

    def put(self, request: Ended) -> None:
        """Send the spans of a request soon."""

    def end(self) -> None:
        """Send what waits. Nobody waits for that."""

    def close(self) -> None:
        """Send what waits, and wait for it, a moment at most."""


class Traces:
    """A sink that keeps finished requests for the collector, in front of another one."""

    def __init__(self, sink: FinishedSink, paths: Mapping[Operation, str], version: str) -> None:
        """Pass requests on to `sink`. `paths` are those of the operations, `version` the gateway's."""
        self._sink = sink
        self._paths = paths
        self._version = version
        self._settings: Tracing | None = None
        self._scheme = "http"
        self._collector: Collecting | None = None

    def apply(self, config: Config) -> Sampler | None:
        """Do as a config says. Return what begins the traces of requests; None where there are to be none."""
        settings = config.server.tracing
        if settings is None or self._settings is None or settings.way != self._settings.way:
            former, self._collector = self._collector, None
            if former is not None:
                former.end()
            if settings is not None:
                self._collector = _collector()(*settings.way, self._version)
        self._settings = settings
        self._scheme = "http" if config.server.tls is None else "https"
        return None if settings is None else Sampler(settings.sample)

    def finished(self, exchange: Exchange) -> None:
        """Record one request that has ended."""
        self._sink.finished(exchange)
        traced, collector = exchange.traced, self._collector
        if collector is not None and traced is not None and traced.is_sampled:
            collector.put(ended(exchange, traced, self._paths[exchange.operation], self._scheme))

    def close(self) -> None:
        """Send what waits, for a moment at most, and record nothing more."""
        former, self._collector, self._settings = self._collector, None, None
        if former is not None:
            former.close()


def _collector() -> Callable[..., Collecting]:
    """Return the class of collectors, whose modules only those pay for who have one."""
    found: Callable[..., Collecting] = importlib.import_module(_COLLECTOR).Collector
    return found

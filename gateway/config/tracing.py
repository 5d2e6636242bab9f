"""The section `server.tracing`: where the traces of requests are sent, and which."""

from __future__ import annotations

import importlib.util
from typing import Final, NamedTuple

from backends.facts.units import Share
from gateway.config.address import Url
from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import AnyHeader, HeaderValue, Line

MISSING: Final = "OpenTelemetry is not installed: pip install 'llm-serving-gateway[otel]'"
_PATH: Final = "/v1/traces"


class Way(NamedTuple):
    """Where traces are sent and how; None where the environment says it. Never printed: headers may hold secrets."""

    endpoint: str | None
    headers: dict[str, str]
    service: str | None


class Tracing(Section):
    """Traces of requests, for an OpenTelemetry collector."""

    endpoint: Url | None = setting(
        None,
        "The collector's URL for OTLP over HTTP, such as `http://collector:4318`; `/v1/traces` is added. Left out, "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says it, or it is `http://localhost:4318`.",
    )
    sample: Share = setting(
        "100%",
        "The share of the traces that begin here which are recorded. Where a client's `traceparent` says whether its "
        "trace is recorded, that holds.",
    )
    headers: Frozen[AnyHeader, HeaderValue] = setting(
        {}, "Headers sent to the collector, such as `Authorization`. Values may be secrets."
    )
    service_name: Line | None = setting(
        None,
        "What the gateway is called in traces. Left out, `OTEL_SERVICE_NAME` says it, or it is `llm-serving-gateway`.",
    )

    @property
    def way(self) -> Way:
        """Return where traces are sent, and how."""
        endpoint = self.endpoint
        if endpoint is not None and not endpoint.endswith(_PATH):
            endpoint += _PATH
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        return Way(endpoint, headers, self.service_name)


def is_installed() -> bool:
    """Tell whether the packages are there that sending traces takes."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ImportError:
        return False

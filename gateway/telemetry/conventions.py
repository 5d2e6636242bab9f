"""What spans and their attributes are called: OpenTelemetry's semantic conventions for GenAI and HTTP, as of v1.42.

Rules:
- The only place that knows these names. The next version of the conventions is an edit of this file.
- What is not known is left out. Of what a client wrote only the name of the model it asked for is here, bounded; never
  a prompt, an answer or a key.
- What the conventions have no name for begins with `gateway.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from backends.base import Operation, Usage
from gateway.request import Exchange
from gateway.telemetry.cells import NONE
from gateway.telemetry.of_gen_ai import OPERATIONS
from gateway.telemetry.trace import Leg

Attributes: TypeAlias = dict[str, str | int | float | bool]

SCHEMA: Final = "https://opentelemetry.io/schemas/1.42.0"
"""The version of the conventions, as data is marked with it."""
SCOPE: Final = "gateway"
SERVICE: Final = "llm-serving-gateway"
"""The name of the service where nobody gives another."""

_FAULTS: Final = frozenset(("upstream_error", "timeout", "overloaded", "internal_error"))
"""Outcomes that are the fault of the gateway or an engine: a client's error is no error of a server."""
_TOKENS: Final[Mapping[str, str]] = {
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cached": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
}
"""Members of `backends.base.Usage` by the conventions' names."""
_SECOND: Final = 1e9
_LONGEST: Final = 256


def operation_name(operation: Operation) -> str:
    """Return the conventions' name of an operation."""
    return OPERATIONS.get(operation, operation.value)


def request_name(path: str) -> str:
    """Return the name of a request's span; `path` is that of its endpoint."""
    return f"POST {path}"


def attempt_name(operation: Operation, leg: Leg) -> str:
    """Return the name of an attempt's span."""
    return f"{operation_name(operation)} {leg.model}"


def request(exchange: Exchange, path: str, scheme: str) -> Attributes:
    """Return the attributes of a request's span; `path` is that of its endpoint, `scheme` how clients reach it."""
    decision, timeline = exchange.decision, exchange.timeline
    found: Attributes = {
        "http.request.method": "POST",
        "http.route": path,
        "url.scheme": scheme,
        "gen_ai.operation.name": operation_name(exchange.operation),
        "gateway.request.id": exchange.name,
        "gateway.outcome": exchange.outcome,
        "gateway.attempts": exchange.attempts,
    }
    if exchange.status:
        found["http.response.status_code"] = exchange.status
    if exchange.outcome != "ok":
        found["error.type"] = exchange.code[:_LONGEST] or exchange.outcome
    if peer := exchange.way.client(exchange.headers):
        found["client.address"] = peer
    if exchange.key != NONE:
        found["gateway.key"] = exchange.key
    if decision is not None:
        found["gen_ai.request.model"] = decision.asked_for[:_LONGEST]
        found["gen_ai.request.stream"] = exchange.request.stream
        found["gateway.decision"] = decision.id.decode()
        found["gateway.model"] = exchange.model
        if decision.rule:
            found["gateway.route"] = decision.rule
    if exchange.backend != NONE:
        found["gateway.backend"] = exchange.backend
        found["gen_ai.response.model"] = exchange.served
    if exchange.first_token_at:
        waited = exchange.first_token_at - timeline.received
        found["gen_ai.response.time_to_first_chunk"] = waited / _SECOND
    return found | _tokens(exchange.usage)


def is_fault(exchange: Exchange) -> bool:
    """Tell whether a request's span is marked as an error."""
    return exchange.status >= 500 or exchange.outcome in _FAULTS


def attempt(operation: Operation, leg: Leg, number: int) -> Attributes:
    """Return the attributes of an attempt's span; the first of a request has the number 0."""
    parts = urlsplit(leg.url)
    found: Attributes = {
        "gen_ai.operation.name": operation_name(operation),
        "gen_ai.provider.name": leg.engine,
        "gen_ai.request.model": leg.model,
        "http.request.method": "POST",
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        "gateway.backend": leg.backend,
        "gateway.result": leg.result,
    }
    if number:
        found["http.request.resend_count"] = number
    if leg.status:
        found["http.response.status_code"] = leg.status
    if leg.failure:
        found["error.type"] = leg.result
    if leg.sent_at and leg.first_token_at:
        found["gen_ai.response.time_to_first_chunk"] = (leg.first_token_at - leg.sent_at) / _SECOND
    return found | _tokens(leg.usage)


def _tokens(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    counts = msgspec.structs.asdict(usage)
    return {_TOKENS[name]: count for name, count in counts.items() if count and name in _TOKENS}

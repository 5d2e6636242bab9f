"""The table of all errors: what the client receives, whether to retry elsewhere, whether the breaker counts it.

Rules:
- An error is a value (`GatewayError`). Its kind selects a row of the table; no other code decides about a status.
- Engines fail with the kinds of `backends.base.Kind`, the gateway itself with those of `Own`. Every kind has a row.
- The client's dialect (`backends.surfaces`) formats an error; this module only decides its content.
- Whatever an engine or its adapter says of a failure reaches the client through `GatewayError.of`, without the
  addresses, paths and keys in it.
- `ClientLeft` is not in the table, because nobody is left to receive an error: it only ends the request.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from backends.base import Failure, Headers, Kind, Phase
from backends.dialect.errors import public
from backends.surfaces.openai import OPENAI
from backends.surfaces.surface import ErrorFacts, InvalidRequest


class Own(enum.StrEnum):
    """Kinds of errors that the client or the gateway caused, before any engine received the request."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_URL = "unknown_url"
    METHOD = "method"
    SLOW_CLIENT = "slow_client"
    TOO_LARGE = "too_large"
    URL_TOO_LONG = "url_too_long"
    HEADERS_TOO_LARGE = "headers_too_large"
    MEDIA_TYPE = "media_type"
    EXPECTATION = "expectation"
    NO_BACKEND = "no_backend"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    QUEUE_DEADLINE = "queue_deadline"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    CANCELLED = "cancelled"
    """An operator has ended the request."""
    INTERNAL = "internal"
    NO_STORE = "no_store"
    """It needs `server.data`, which the config does not have."""
    STORE = "store"
    """The store does not work."""


@dataclass(frozen=True, slots=True)
class Row:
    """The consequences of one kind of error. `type` and `code` are the fields of OpenAI's error object."""

    status: int
    type: str
    code: str
    outcome: str
    """The label value in the metrics, one of `OUTCOMES`."""
    elsewhere: bool = False
    """Whether another backend may be tried, as long as the client has received nothing."""
    counts: bool = False
    """Whether the circuit breaker counts it as a failure of the backend."""


CLIENT_GONE, CLIENT_SLOW = "client_gone", "client_slow"
OUTCOMES = (
    *("ok", "client_error", CLIENT_GONE, CLIENT_SLOW, "upstream_error", "timeout", "overloaded"),
    *("cancelled", "internal_error"),
)

_INVALID, _UPSTREAM, _BUSY = "invalid_request_error", "upstream_error", "overloaded_error"

ROWS: dict[Kind | Own, Row] = {
    Kind.CONNECT: Row(
        502, _UPSTREAM, "upstream_connect_error", "upstream_error", elsewhere=True, counts=True
    ),
    Kind.UNRESOLVED: Row(502, _UPSTREAM, "upstream_connect_error", "upstream_error", elsewhere=True),
    Kind.RESET: Row(502, _UPSTREAM, "upstream_reset", "upstream_error", elsewhere=True, counts=True),
    Kind.TIMEOUT: Row(504, "timeout_error", "upstream_timeout", "timeout", counts=True),
    Kind.OVERLOADED: Row(503, _BUSY, "overloaded", "overloaded", elsewhere=True),
    Kind.LOADING: Row(503, _BUSY, "model_loading", "overloaded", elsewhere=True),
    Kind.REJECTED: Row(400, _INVALID, "invalid_value", "client_error"),
    Kind.CONTEXT: Row(400, _INVALID, "context_length_exceeded", "client_error"),
    Kind.MISSING: Row(502, _UPSTREAM, "upstream_model_missing", "upstream_error", elsewhere=True),
    Kind.REFUSED: Row(502, _UPSTREAM, "upstream_auth_error", "upstream_error", elsewhere=True),
    Kind.FAILED: Row(502, _UPSTREAM, "upstream_error", "upstream_error", elsewhere=True, counts=True),
    Kind.GARBLED: Row(
        502, _UPSTREAM, "upstream_protocol_error", "upstream_error", elsewhere=True, counts=True
    ),
    Kind.LIMIT: Row(502, _UPSTREAM, "answer_too_large", "upstream_error"),
    Kind.UNSUPPORTED: Row(400, _INVALID, "not_supported", "client_error", elsewhere=True),
    Own.INVALID: Row(400, _INVALID, "invalid_value", "client_error"),
    Own.UNAUTHENTICATED: Row(401, _INVALID, "invalid_api_key", "client_error"),
    Own.FORBIDDEN: Row(403, "permission_error", "model_not_allowed", "client_error"),
    Own.UNKNOWN_MODEL: Row(404, _INVALID, "model_not_found", "client_error"),
    Own.UNKNOWN_URL: Row(404, _INVALID, "unknown_url", "client_error"),
    Own.METHOD: Row(405, _INVALID, "method_not_allowed", "client_error"),
    Own.SLOW_CLIENT: Row(408, "timeout_error", "request_timeout", "client_error"),
    Own.TOO_LARGE: Row(413, _INVALID, "request_too_large", "client_error"),
    Own.URL_TOO_LONG: Row(414, _INVALID, "url_too_long", "client_error"),
    Own.HEADERS_TOO_LARGE: Row(431, _INVALID, "headers_too_large", "client_error"),
    Own.MEDIA_TYPE: Row(415, _INVALID, "unsupported_media_type", "client_error"),
    Own.EXPECTATION: Row(417, _INVALID, "unsupported_expectation", "client_error"),
    Own.NO_BACKEND: Row(503, _BUSY, "no_healthy_backend", "overloaded"),
    Own.QUEUE_FULL: Row(503, _BUSY, "queue_full", "overloaded"),
    Own.QUEUE_TIMEOUT: Row(503, _BUSY, "queue_timeout", "overloaded"),
    Own.QUEUE_DEADLINE: Row(503, _BUSY, "queue_deadline", "overloaded"),
    Own.QUARANTINED: Row(400, _INVALID, "request_refused", "client_error"),
    Own.DRAINING: Row(503, _BUSY, "draining", "overloaded"),
    Own.CANCELLED: Row(500, "server_error", "cancelled_by_operator", "cancelled"),
    Own.INTERNAL: Row(500, "server_error", "internal_error", "internal_error"),
    Own.NO_STORE: Row(400, _INVALID, "store_not_configured", "client_error"),
    Own.STORE: Row(503, "server_error", "store_unavailable", "internal_error"),
}


_FINAL = frozenset((Kind.TIMEOUT, Kind.LIMIT))
"""Failures that a client's own retry would only meet again: it is not invited to one."""


class GatewayError(Exception):
    """An error that is reported to the client.

    `code` and `status` override those of the table's row, for kinds that cover several cases. `param` names the member
    of the request that is wrong. `retry_after` is in seconds. `headers` are added to the answer. `final` says that the
    client should not repeat the request: the gateway has tried it more than once, or knows that it would be in vain.
    """

    def __init__(
        self,
        kind: Kind | Own,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        final: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        row = ROWS[kind]
        self.kind = kind
        self.message = message
        self.param = param
        self.type = row.type
        self.code = code or row.code
        self.status = status or row.status
        self.outcome = row.outcome
        self.retry_after = retry_after
        self.final = final
        self.own = isinstance(kind, Own)
        """Whether the gateway or the client is the reason, and no engine."""
        self._headers = headers

    @classmethod
    def of(cls, failure: Failure, where: str = "", final: bool = False) -> GatewayError:
        """Return the error for the client when `failure` ended the last attempt.

        `where` names the model and the backend: it is told with errors that are not the client's. `final`: as above.
        """
        code, status = None, None
        message = public(failure.message)
        if ROWS[failure.kind].outcome != "client_error":
            message = f"{message} ({where})" if where else message
        if failure.kind is Kind.TIMEOUT and failure.phase is not None:
            code = f"upstream_timeout_{failure.phase}"
        elif failure.kind is Kind.REJECTED:
            code, status = failure.code, failure.status if failure.status in (413, 422) else 400
        elif failure.kind is Kind.UNSUPPORTED:
            code = failure.code
        return cls(
            failure.kind,
            message,
            param=failure.param,
            code=code,
            status=status,
            retry_after=failure.retry_after,
            final=failure.kind in _FINAL or (final and ROWS[failure.kind].status >= 500),
        )

    @classmethod
    def invalid(cls, error: InvalidRequest) -> GatewayError:
        """Return the error for a request that could not be read."""
        kind = Own.MEDIA_TYPE if error.media_type else Own.INVALID
        return cls(kind, error.message, param=error.param, code=error.code)

    def add_headers(self, headers: Headers) -> None:
        """Add headers to the answer."""
        self._headers = (*self._headers, *headers)

    @property
    def facts(self) -> ErrorFacts:
        """Return what the client is told, as input for its dialect's formatter."""
        return ErrorFacts(self.message, self.type, self.param, self.code, self.status)

    def body(self) -> bytes:
        """Return the error as OpenAI's JSON, for use before the client's dialect is known."""
        return OPENAI.error(self.facts)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer, except content type and length."""
        out = list(self._headers)
        if self.status == 401:
            out.append((b"www-authenticate", b"Bearer"))
        if self.status in (429, 503):
            out.append((b"retry-after", b"%d" % max(1, min(60, round(self.retry_after or 1)))))
        if self.final or self.status == 401:
            # The SDKs of OpenAI and Anthropic read this header; their retries would multiply the load. Claude Code 2.1
            # repeats a request with a wrong key for minutes before it says so, unless it is told not to.
            out.append((b"x-should-retry", b"false"))
        return out


class ClientLeft(Exception):
    """The client's connection is gone, because it disconnected or because it broke a limit and was disconnected.

    `outcome` is the label value for the metrics.
    """

    def __init__(self, outcome: str = CLIENT_GONE) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def may_go_elsewhere(failure: Failure) -> bool:
    """Tell whether another backend may be tried after this failure, if the client has received nothing yet."""
    if failure.kind is Kind.TIMEOUT:
        # The limit for the first token includes the engine's own queue, so another backend may be faster. After the
        # total limit of the request no time is left.
        return failure.phase is not Phase.TOTAL
    return ROWS[failure.kind].elsewhere

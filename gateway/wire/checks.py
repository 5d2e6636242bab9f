"""What is wrong with a request's head or body, as the error that its client is told.

Rules:
- Pure functions. `gateway.wire.server` collects what they are asked about, and refuses the request.
"""

from __future__ import annotations

import re
from typing import Final

from backends.base import Headers
from backends.surfaces.dialects import surface_at
from gateway.errors import GatewayError, Own
from gateway.wire.http1 import STATUS_LINES
from gateway.wire.limits import FRAMING, Limits
from gateway.wire.origins import is_host

CHECKED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
"""The headers that `header_fault` knows."""

_CODED: Final = re.compile(rb".*,[ \t]*chunked", re.IGNORECASE)
"""Another coding before `chunked`. Requests whose last coding is not `chunked` are refused by the parser."""


def header_fault(name: bytes, value: bytes, most: int) -> GatewayError | None:
    """Return what is wrong with one header of `CHECKED`. The parser has seen that a length is a number.

    The body may have `most` bytes.
    """
    if name == b"host" and not is_host(value):
        return GatewayError(Own.INVALID, "the Host header names no host", code="invalid_host")
    if name == b"expect" and value.lower() != b"100-continue":
        return GatewayError(Own.EXPECTATION, "only `Expect: 100-continue` is understood")
    if name == b"content-length" and int(value) > most:
        return too_large(most)
    if name == b"transfer-encoding" and _CODED.fullmatch(value):
        message = "no transfer coding but 'chunked' is understood"
        return GatewayError(Own.INVALID, message, code="unsupported_coding")
    return None


def head_fault(version: str, hosts: int, lengths: int) -> GatewayError | None:
    """Return what is wrong with a whole head: with its version, or the numbers of its hosts and its body's lengths."""
    if version not in ("1.1", "1.0"):
        return GatewayError(Own.INVALID, "only HTTP/1.1 and HTTP/1.0 are spoken here", code="invalid_http")
    if hosts != 1 and (hosts or version != "1.0"):
        return GatewayError(Own.INVALID, "a request needs exactly one Host header", code="invalid_host")
    if lengths > 1:
        return GatewayError(Own.INVALID, "the length of the body is given twice", code="invalid_http")
    return None


def too_large(most: int) -> GatewayError:
    """Return the error for a body beyond the limit."""
    return GatewayError(Own.TOO_LARGE, f"the request body is larger than {most} bytes")


def framing_fault(part: str, read: int, body: int, limits: Limits) -> GatewayError | None:
    """Return what is wrong with the bytes that the parser skips (chunk extensions) or buffers (unfinished lines).

    `read` bytes of the `part`, headers or body, have come, of which `body` bytes belong to the body itself.
    """
    if part == "headers":
        if read > limits.url + limits.headers + FRAMING:
            return GatewayError(Own.HEADERS_TOO_LARGE, "the request's head is too large")
    elif read > FRAMING + 9 * body:
        message = "there is too much between the chunks of the body"
        return GatewayError(Own.INVALID, message, code="invalid_http")
    return None


def reason_of(error: GatewayError) -> str:
    """Return why a request was refused, as the label value of the metrics: one of `REASONS`."""
    return "too_many_connections" if error.kind is Own.NO_BACKEND else error.code


TLS_HANDSHAKE: Final = "tls_handshake"
PLAIN_HTTP: Final = "plain_http"
"""HTTP where TLS is spoken."""
REASONS: Final = (
    *("invalid_http", "invalid_host", "unsupported_coding", "url_too_long", "headers_too_large"),
    *("unsupported_expectation", "request_too_large", "request_timeout", "too_many_connections"),
    *(TLS_HANDSHAKE, PLAIN_HTTP),
)
"""Why a request may be refused before it has been read."""


def refusal(error: GatewayError, cors: Headers, url: bytes = b"") -> bytes:
    """Return the whole answer for a request that is refused before any application code knows it.

    `cors` are headers that let the page behind the request read it, `url` is what it asked for,
    as far as that is known.
    """
    surface = surface_at(url.decode("latin-1"))
    body = surface.error(error.facts)
    head = [
        STATUS_LINES[surface.status(error.facts, error.status)],
        b"content-type: application/json\r\nconnection: close\r\n",
    ]
    head += [name + b": " + value + b"\r\n" for name, value in (*error.headers(), *cors)]
    return b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body])

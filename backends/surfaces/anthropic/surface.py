"""Anthropic's API as a client dialect: its errors and their statuses, and its signs of life.

Rules:
- A heartbeat is a `ping`, which the API allows anywhere in a stream; its words for people stand in a comment above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from backends.base import Headers
from backends.surfaces.openai import OpenAI
from backends.surfaces.surface import Broken, ErrorFacts

_TYPES: Mapping[str, str] = {
    "invalid_request_error": "invalid_request_error",
    "overloaded_error": "overloaded_error",
    "permission_error": "permission_error",
    "timeout_error": "timeout_error",
}
_CODES: Mapping[str, str] = {
    "invalid_api_key": "authentication_error",
    "missing_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "request_too_large": "request_too_large",
    "unknown_url": "not_found_error",
}
"""The gateway's error types and codes for which Anthropic's API has a type of its own. All others are `api_error`."""
_OVERLOADED = 529
"""The status of `overloaded_error`, which Anthropic's clients wait at."""


class Anthropic(OpenAI):
    """Anthropic's Messages API."""

    name: ClassVar[str] = "anthropic"
    after_heartbeats: ClassVar[bytes] = b""
    forwarded: ClassVar[tuple[bytes, ...]] = (b"anthropic-version", b"anthropic-beta")

    def status(self, facts: ErrorFacts, status: int) -> int:
        return _OVERLOADED if _type_of(facts) == "overloaded_error" else status

    def marks(self, request_id: bytes) -> Headers:
        return (b"x-request-id", request_id), (b"request-id", request_id)

    def heartbeat(self, words: str) -> bytes:
        return super().heartbeat(words) + b'event: ping\ndata: {"type":"ping"}\n\n'

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        error = facts.members() | {"type": _type_of(facts)}
        told = {"type": "error", "error": error, "request_id": request_id.decode() or None}
        return msgspec.json.encode(told)

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        error = {"type": _type_of(facts), "message": facts.message}
        told = {"type": "error", "error": error, "request_id": broken.request_id.decode() or None}
        return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"


def _type_of(facts: ErrorFacts) -> str:
    """Return Anthropic's type of an error."""
    return _CODES.get(facts.code) or _TYPES.get(facts.type, "api_error")

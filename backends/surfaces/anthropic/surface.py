"""Anthropic's API as a client dialect: its requests, its errors and their statuses.

Rules:
- A system message among the messages is read as more of the system text, whoever answers: Claude Code (2.1) sends such
  messages on nearly every turn, and most templates, of engines that speak Messages too, allow none behind the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from backends.base import Headers, Operation, Request
from backends.dialect import rewrite
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
_SYSTEM_ROLE = (b'"role":"system"', b'"role": "system"')

_messages = msgspec.json.Decoder(list[dict[str, Any]])
_any = msgspec.json.Decoder()


class Anthropic(OpenAI):
    """Anthropic's Messages API."""

    name: ClassVar[str] = "anthropic"
    forwarded: ClassVar[tuple[bytes, ...]] = (b"anthropic-version", b"anthropic-beta")

    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        request = super().read(operation, content_type, body)
        if any(role in body for role in _SYSTEM_ROLE):
            return msgspec.structs.replace(request, body=_with_one_system(body))
        return request

    def status(self, facts: ErrorFacts, status: int) -> int:
        return _OVERLOADED if _type_of(facts) == "overloaded_error" else status

    def marks(self, request_id: bytes) -> Headers:
        return (b"x-request-id", request_id), (b"request-id", request_id)

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        error = facts._asdict() | {"type": _type_of(facts)}
        told = {"type": "error", "error": error, "request_id": request_id.decode() or None}
        return msgspec.json.encode(told)

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        error = {"type": _type_of(facts), "message": facts.message}
        told = {"type": "error", "error": error, "request_id": broken.request_id.decode() or None}
        return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"


def _type_of(facts: ErrorFacts) -> str:
    """Return Anthropic's type of an error."""
    return _CODES.get(facts.code) or _TYPES.get(facts.type, "api_error")


def _with_one_system(body: bytes) -> bytes:
    """Return a request whose system messages stand in `system`; one that is odd as it is, for others to refuse."""
    members = rewrite.members(body)
    try:
        messages = _messages.decode(members["messages"])
        system = _blocks(_any.decode(members.get("system", b"[]")))
        for message in messages:
            if message.get("role") == "system":
                system += _blocks(message.get("content"))
    except (ValueError, LookupError, TypeError):
        return body
    rest = [message for message in messages if message.get("role") != "system"]
    changed = {"system": msgspec.json.encode(system), "messages": msgspec.json.encode(rest)}
    return rewrite.joined(members | changed)


def _blocks(content: Any) -> list[Any]:
    """Return a content as blocks. Raise TypeError if it is none."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if content is None:
        return []
    if not isinstance(content, list):
        raise TypeError("no content")
    return content

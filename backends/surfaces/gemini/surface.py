"""Google's Gemini API as a client dialect: its requests, its streams in two forms, its errors.

Rules:
- A heartbeat is an empty line and no comment: Google's SDK for Python (google-genai 3.6.1) takes a comment for JSON and
  fails.
- An error names the HTTP status in its `code`, and Google's word for it in its `status`. OpenAI's `code` is the
  `reason` among its details, and `param` the field there.
- A stream in the form of a list is one JSON document. Where it breaks off its last item is the error, the list is
  closed, and the connection is cut off all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from backends.base import Headers, Operation, Request
from backends.dialect.errors import UNREADABLE
from backends.surfaces.gemini import shapes
from backends.surfaces.openai import UNBUFFERED, OpenAI
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest

_STATUSES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's words (google.rpc.Code) by HTTP status. Of others, those of the client are INVALID_ARGUMENT."""
_DETAIL: Final = "type.googleapis.com/google.rpc."


class Gemini(OpenAI):
    """Google's Gemini API, whose streams are server-sent events (`alt=sse`)."""

    name: ClassVar[str] = "gemini"
    after_heartbeats: ClassVar[bytes] = b""

    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        request = super().read(operation, content_type, body)
        if operation is not Operation.GEMINI_GENERATE:
            return request
        try:
            choices = shapes.choices(body)
        except UNREADABLE:
            message = f"'generationConfig.candidateCount': expected a whole number from 1 to {shapes.MOST}"
            raise InvalidRequest(message, param="generationConfig.candidateCount") from None
        return msgspec.structs.replace(request, choices=choices)

    def heartbeat(self, words: str) -> bytes:
        return b"\n"

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        return msgspec.json.encode({"error": _error(facts, request_id)})

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return b"data: " + self.error(facts, broken.request_id) + b"\n\n"


class GeminiList(Gemini):
    """The same API where a stream is the items of one list, as without `alt=sse`."""

    stream_headers: ClassVar[Headers] = ((b"content-type", b"application/json"), *UNBUFFERED)

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        return b"[" + super().error(facts, request_id) + b"\n]"

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        before = b",\n" if broken.number else b"["
        return before + Gemini.error(self, facts, broken.request_id) + b"\n]"


def _error(facts: ErrorFacts, request_id: bytes) -> dict[str, Any]:
    status = facts.status or 500
    word = _STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    details: list[dict[str, Any]] = [
        {"@type": _DETAIL + "ErrorInfo", "reason": facts.code.upper(), "domain": "gateway"}
    ]
    if facts.param is not None:
        wrong = {"field": facts.param, "description": facts.message}
        details.append({"@type": _DETAIL + "BadRequest", "fieldViolations": [wrong]})
    if request_id:
        details.append({"@type": _DETAIL + "RequestInfo", "requestId": request_id.decode()})
    return {"code": status, "message": facts.message, "status": word, "details": details}

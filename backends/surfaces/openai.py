"""OpenAI's dialect as clients speak it, and its relatives that answer errors in streams in another shape.

Rules:
- An error is always `{"error": {message, type, param, code}}` where it is the whole answer.
- Inside a stream it has the shape of the API that was called, so that its SDK raises it.
- Answers and streams are canonical already: their bytes pass.

Sources: OpenAI's and Anthropic's API references and the types of their Python SDKs (openai 3.0, anthropic 0.70).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from backends.base import FORMS, Headers, Operation, Request
from backends.surfaces import bodies, forms
from backends.surfaces.surface import InvalidRequest, Surface, Told

JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)


class OpenAI(Surface):
    """Chat, completions, embeddings and everything else that ends a stream with `data: {"error": ...}`."""

    stream_headers: ClassVar[Headers] = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    )
    heartbeat: ClassVar[bytes] = b": keep-alive\n\n"

    def check(self, operation: Operation, content_type: bytes) -> None:
        if operation in FORMS:
            forms.check_type(content_type)
        elif (
            content_type != b"application/json"
            and content_type.partition(b";")[0].strip().lower() != b"application/json"
        ):
            raise InvalidRequest(
                "the body must be JSON: send the header 'Content-Type: application/json'", media_type=True
            )

    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        if operation in FORMS:
            return forms.decode(operation, body, content_type)
        return bodies.decode(operation, body)

    def error(self, told: Told) -> bytes:
        return msgspec.json.encode({"error": told._asdict()})

    def error_event(self, told: Told) -> bytes:
        return b"data: " + self.error(told) + b"\n\n"


class Responses(OpenAI):
    """OpenAI's Responses API: an error in a stream is an event named `error`."""

    def error_event(self, told: Told) -> bytes:
        facts = {"type": "error", "code": told.code, "message": told.message, "param": told.param}
        return b"event: error\ndata: " + msgspec.json.encode(facts) + b"\n\n"


class Messages(OpenAI):
    """Anthropic's Messages API, for engines that speak it themselves."""

    def error_event(self, told: Told) -> bytes:
        error = {"type": _ANTHROPIC.get(told.type, "api_error"), "message": told.message}
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"


_ANTHROPIC = {
    "invalid_request_error": "invalid_request_error",
    "overloaded_error": "overloaded_error",
    "timeout_error": "timeout_error",
}
"""The gateway's error types that Anthropic's API has too; everything else is its `api_error`."""


class Speech(OpenAI):
    """Text to speech: the answer is sound, in which no error can be told."""

    def error_event(self, told: Told) -> bytes:
        return b""


OPENAI = OpenAI()

SURFACES: dict[Operation, Surface] = {
    Operation.RESPONSES: Responses(),
    Operation.MESSAGES: Messages(),
    Operation.SPEECH: Speech(),
}
"""The dialect in which each operation is asked for; one that is not in here in plain OpenAI's."""


def surface_of(operation: Operation) -> Surface:
    """Return the dialect in which an operation is asked for."""
    return SURFACES.get(operation, OPENAI)

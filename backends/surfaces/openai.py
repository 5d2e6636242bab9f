"""OpenAI's dialect for clients, and variants of it whose errors inside a stream have another format.

Rules:
- An error that is the whole answer is always `{"error": {message, type, param, code}}`.
- An error inside a stream has the format of the API that was called, so that its SDK raises it.
- Answers and streams are in this dialect already, so their bytes are passed on unchanged.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from backends.base import Headers, Operation, Request
from backends.dialect.openai import FORMS
from backends.surfaces import bodies, forms
from backends.surfaces.surface import ErrorFacts, InvalidRequest, Surface

JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)
UNBUFFERED: Headers = ((b"x-accel-buffering", b"no"),)
"""Tells nginx, and proxies that do as it does, to pass an answer on as it comes."""


@mypyc_attr(allow_interpreted_subclasses=True)
class OpenAI(Surface):
    """OpenAI's API: chat, completions, embeddings and all operations whose streams report `data: {"error": ...}`."""

    stream_headers: ClassVar[Headers] = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        *UNBUFFERED,
    )

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

    def heartbeat(self, words: str) -> bytes:
        return b": " + words.encode() + b"\n"

    def error(self, facts: ErrorFacts) -> bytes:
        return msgspec.json.encode({"error": facts._asdict()})

    def error_event(self, facts: ErrorFacts, number: int) -> bytes:
        return b"data: " + self.error(facts) + b"\n\n"


class Responses(OpenAI):
    """OpenAI's Responses API, where an error in a stream is an event named `error`."""

    def error_event(self, facts: ErrorFacts, number: int) -> bytes:
        event = {
            "type": "error",
            "code": facts.code,
            "message": facts.message,
            "param": facts.param,
            "sequence_number": number,
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


class Messages(OpenAI):
    """Anthropic's Messages API, for engines that implement it themselves."""

    forwarded: ClassVar[tuple[bytes, ...]] = (b"anthropic-version", b"anthropic-beta")

    def error(self, facts: ErrorFacts) -> bytes:
        return msgspec.json.encode({"type": "error", "error": facts._asdict() | {"type": _anthropic(facts)}})

    def error_event(self, facts: ErrorFacts, number: int) -> bytes:
        error = {"type": _anthropic(facts), "message": facts.message}
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"


def _anthropic(facts: ErrorFacts) -> str:
    """Return Anthropic's type of an error."""
    return _ANTHROPIC_CODES.get(facts.code) or _ANTHROPIC_TYPES.get(facts.type, "api_error")


_ANTHROPIC_CODES = {
    "invalid_api_key": "authentication_error",
    "missing_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "request_too_large": "request_too_large",
    "unknown_url": "not_found_error",
}
_ANTHROPIC_TYPES = {
    "invalid_request_error": "invalid_request_error",
    "overloaded_error": "overloaded_error",
    "permission_error": "permission_error",
    "timeout_error": "timeout_error",
}
"""The gateway's error codes and types for which Anthropic's API has a type of its own. All others are `api_error`."""


class Speech(OpenAI):
    """Text to speech: the answer is audio, in which an error cannot be reported."""

    def error_event(self, facts: ErrorFacts, number: int) -> bytes:
        return b""


OPENAI = OpenAI()

SURFACES: dict[Operation, Surface] = {
    Operation.RESPONSES: Responses(),
    Operation.MESSAGES: Messages(),
    Operation.COUNT_TOKENS: Messages(),
    Operation.SPEECH: Speech(),
}
"""The client dialect of each operation that has its own. All others use plain OpenAI."""


def surface_of(operation: Operation) -> Surface:
    """Return the client dialect of an operation."""
    return SURFACES.get(operation, OPENAI)

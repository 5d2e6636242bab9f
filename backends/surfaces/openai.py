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
from backends.dialect import responses
from backends.dialect.openai import FORMS
from backends.surfaces import bodies, forms
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest, Surface

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

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        return msgspec.json.encode({"error": facts.members()})

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return b"data: " + self.error(facts) + b"\n\n"


class Responses(OpenAI):
    """OpenAI's Responses API, where an error in a stream is an event named `error`.

    It is followed by the response itself, which has failed, and with that the stream is complete, as OpenAI ends one.
    Codex (0.171) takes the reason from that event alone, and tells it only once the body has ended properly: of a
    connection that closes before, it says nothing but that it closed.
    """

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        number = broken.number
        event = {
            "type": "error",
            "code": facts.code,
            "message": facts.message,
            "param": facts.param,
            "sequence_number": number,
        }
        error = b"event: error\ndata: %b\n\n" % msgspec.json.encode(event)
        if broken.request is None:
            return error
        response = responses.failed(broken.request, broken.identity, facts.message)
        failed = {"type": "response.failed", "sequence_number": number + 1, "response": response}
        return error + b"event: response.failed\ndata: %b\n\n" % msgspec.json.encode(failed)

    def ends(self, broken: Broken) -> bool:
        return broken.request is not None


class Speech(OpenAI):
    """Text to speech: the answer is audio, in which an error cannot be reported."""

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return b""


OPENAI = OpenAI()

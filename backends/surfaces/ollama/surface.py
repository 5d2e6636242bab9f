"""Ollama's API as a client dialect: its requests, its lines of JSON, its errors.

Rules:
- A body needs no content type, as in Ollama: its users send it with curl, which says that it is a form. Pages of other
  sites are refused by their origin before.
- A heartbeat is a blank and no line: clients decode each line, and blanks before an object are no mistake.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from backends.base import Headers, Operation, Request
from backends.dialect.errors import UNREADABLE, unreadable
from backends.surfaces.ollama import idle
from backends.surfaces.openai import UNBUFFERED, OpenAI
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest

_NO_MODEL: Final = re.compile(
    r"there is no model ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(.*)", re.DOTALL
).fullmatch
"""The gateway's words for a model that it does not know, with the name as the client wrote it."""


class Ollama(OpenAI):
    """Ollama's own API."""

    name: ClassVar[str] = "ollama"
    stream_headers: ClassVar[Headers] = ((b"content-type", b"application/x-ndjson"), *UNBUFFERED)
    after_heartbeats: ClassVar[bytes] = b""

    def check(self, operation: Operation, content_type: bytes) -> None:
        """Take any content type."""

    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        if not body:
            raise InvalidRequest("missing request body", code="invalid_json")
        try:
            request = super().read(operation, content_type, body)
        except InvalidRequest as error:
            if error.param == "model" and error.code == "missing_field":
                error.message = "model is required"
            raise
        try:
            asks_for_nothing = bool(idle.done_reason(request))
        except UNREADABLE as error:
            raise InvalidRequest(unreadable(error).message, code="invalid_json") from None
        # What asks for nothing is answered as a whole, whatever it says of streams.
        return msgspec.structs.replace(request, stream=False) if asks_for_nothing else request

    def heartbeat(self, words: str) -> bytes:
        return b" "

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        message = facts.message
        if facts.code == "model_not_found" and (said := _NO_MODEL(message)):
            # Clients look for these words before they offer to pull a model.
            message = f"model {said[1]} not found{said[2]}"
        return msgspec.json.encode({"error": message})

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return self.error(facts) + b"\n"

"""Ollama's API as a client dialect: its requests, its lines of JSON, its errors.

Rules:
- A body needs no content type, as in Ollama: its users send it with curl, which says that it is a form. Pages of other
  sites are refused by their origin before.
- A heartbeat is a blank and no line: clients decode each line, and blanks before an object are no mistake.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from backends.base import Headers, Operation, Request
from backends.surfaces.ollama import idle
from backends.surfaces.openai import UNBUFFERED, OpenAI
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest


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
        request = super().read(operation, content_type, body)
        # What asks for nothing is answered as a whole, whatever it says of streams.
        return msgspec.structs.replace(request, stream=False) if idle.done_reason(request) else request

    def heartbeat(self, words: str) -> bytes:
        return b" "

    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        # Clients look for these words before they offer to pull a model.
        message = f"model not found: {facts.message}" if facts.code == "model_not_found" else facts.message
        return msgspec.json.encode({"error": message})

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        return self.error(facts) + b"\n"

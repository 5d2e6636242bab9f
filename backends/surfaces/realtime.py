"""OpenAI's Realtime API as a client dialect: a WebSocket, whose request is its handshake.

Rules:
- The request's body is made here from the handshake, so that everything behind sees a request like any other: a JSON
  object with `model`, and the key of the handshake, by which two of them differ.
- Before the switch of protocols an error is OpenAI's JSON. Behind it an error is the closing frame: its code says
  whether the gateway goes away or failed, its reason is the message.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from backends.base import Headers, Operation, Request
from backends.framing import websocket
from backends.surfaces.openai import OpenAI
from backends.surfaces.surface import Broken, ErrorFacts, InvalidRequest

PROTOCOL = b"sec-websocket-protocol"
_HANDSHAKE = (b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", PROTOCOL)
_LEAVING = ("draining", "idle_timeout", "cancelled_by_operator")
"""Codes of errors that are no failure."""


class _Handshake(msgspec.Struct):
    model: str | None = None
    key: str = ""


_handshake = msgspec.json.Decoder(_Handshake)


def body_of(model: str | None, key: bytes) -> bytes:
    """Return the body that stands for a handshake with this key, for a model; None where it names none."""
    return msgspec.json.encode(_Handshake(model, key.decode("latin-1")))


class Realtime(OpenAI):
    """The Realtime API."""

    forwarded: ClassVar[tuple[bytes, ...]] = (*_HANDSHAKE, b"openai-beta", b"openai-safety-identifier")
    stream_headers: ClassVar[Headers] = ()

    def check(self, operation: Operation, content_type: bytes) -> None:
        """Take any content type: a handshake has no body."""

    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        model = _handshake.decode(body).model
        if not model:
            message = "'model' is missing: name it in the URL, /v1/realtime?model=NAME"
            raise InvalidRequest(message, param="model", code="missing_field")
        return Request(operation, body, model)

    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        code = websocket.GOING_AWAY if facts.code in _LEAVING else websocket.FAILED
        return websocket.closing(code, facts.message)

"""Responses that are made in the background: what their clients see of them while they are made, and afterwards.

Facts: OpenAI's guide to background mode and the types of its Python SDK 3.52. Such a response has the status `queued`,
then `in_progress`, and in the end `completed`, `incomplete`, `failed` or `cancelled`; its stream begins with
`response.created` and `response.queued`, and its events are numbered from 0, by which a client asks for those it lacks.

Rules:
- Pure: values in, values out. What an engine answers is told under the id that the client was given at first.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import msgspec

from backends.base import Request
from backends.dialect import responses
from backends.dialect.members import Members
from backends.framing import sse

Response = dict[str, Any]

QUEUED: Final = "queued"
IN_PROGRESS: Final = "in_progress"
CANCELLED: Final = "cancelled"
FAILED: Final = "failed"
OPEN: Final = (QUEUED, IN_PROGRESS)
"""The states of a response that has not ended."""
_CREATED: Final = "response.created"

_members = msgspec.json.Decoder(dict[str, Any])


class _Error(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _Error


_refusal = msgspec.json.Decoder(_Refusal)


def queued(request: Request) -> Response:
    """Return the response that a client gets at once."""
    response: Response = {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": QUEUED,
        "background": True,
    }
    responses.complete(response, responses.asked_of(request), request.model)
    return response


def foreground(body: bytes) -> bytes:
    """Return the body of a request without `background`."""
    members = Members(body)
    members.drop("background")
    return members.body()


def failed(response: Response, message: str) -> Response:
    """Return a response that has failed, with the reason."""
    return response | {"status": FAILED, "error": {"code": "server_error", "message": message}}


def cancelled(response: Response) -> Response:
    """Return a response that its client has cancelled."""
    return response | {"status": CANCELLED}


def answered(begun: Response, status: int, body: bytes) -> Response:
    """Return the response that an answer in one piece is; an error is one that has failed. Raises msgspec's errors."""
    if status == 200:
        return _told(_members.decode(body), begun)
    return failed(begun, _refusal.decode(body).error.message)


def _told(response: Response, begun: Response) -> Response:
    """Return an engine's response under the id of the one that was begun."""
    return response | {name: begun[name] for name in ("id", "created_at", "background")}


class Events:
    """The events of one response's stream, as its client gets them."""

    def __init__(self, begun: Response) -> None:
        """Begin the stream of a response that is queued."""
        self._begun = begun
        self._rest = b""
        self._number = 0
        self.last: Response = begun
        """The response in the last event that had one."""
        self.first = [
            self._event({"type": kind, "response": begun}) for kind in (_CREATED, "response.queued")
        ]

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events for more of the engine's stream. Raises msgspec's errors."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        made = []
        for block in blocks:
            payload = sse.payload(block)
            event = _members.decode(payload) if payload else {}
            if event and event.get("type") != _CREATED:
                response = event.get("response")
                if isinstance(response, dict):
                    event["response"] = self.last = _told(response, self._begun)
                made.append(self._event(event))
        return made

    def ended(self, response: Response) -> list[bytes]:
        """Return the last event of a stream for a response that has failed or was cancelled, unless it has one."""
        if self.last.get("status") == response["status"]:
            return []
        self.last = response
        return [self._event({"type": "response.failed", "response": response})]

    def _event(self, event: dict[str, Any]) -> bytes:
        event["sequence_number"] = self._number
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))

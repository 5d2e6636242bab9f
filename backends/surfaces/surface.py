"""The contract between the gateway and a client dialect: how a request is read, and how an error is written.

Rules:
- Everything here is a value or a pure function of values: no sockets, no `await`, no clock, no import of `gateway`.
- A `Surface` object has no state. It stands beside `backends.base.Engine`: the one knows what clients say, the other
  what engines are told; between the two lies the canonical dialect, OpenAI's.
- Where the client's dialect is the canonical one, the bytes of answers and streams pass unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from backends.base import Headers, Operation, Request


class Told(NamedTuple):
    """What a client is told of an error. `type` and `code` are OpenAI's words or the gateway's own; `param` is the
    member of the request that is wrong, where one is."""

    message: str
    type: str
    param: str | None
    code: str


class InvalidRequest(Exception):
    """The client's request cannot be read. `media_type`: its body is of the wrong content type (HTTP 415), otherwise it
    says something wrong (HTTP 400); `param` and `code` are OpenAI's fields of an error."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, media_type: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.media_type = media_type


class Surface(ABC):
    """One dialect that clients speak."""

    stream_headers: ClassVar[Headers]
    """The headers of a streamed answer, beside those the gateway adds."""
    heartbeat: ClassVar[bytes]
    """What is written into a stream to show that the gateway is alive; clients skip it."""

    @abstractmethod
    def check(self, operation: Operation, content_type: bytes) -> None:
        """Accept the content type of a body before the body is read. Raises InvalidRequest."""

    @abstractmethod
    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        """Return the canonical request in a body, decoded only as far as the gateway must know it. Raises
        InvalidRequest."""

    @abstractmethod
    def error(self, told: Told) -> bytes:
        """Return the JSON body of an error answer."""

    @abstractmethod
    def error_event(self, told: Told) -> bytes:
        """Return what ends a stream that had begun and cannot go on; empty where the dialect has no word for it."""

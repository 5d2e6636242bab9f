"""The interface of a client dialect: how a request is read, and how an error is written.

Rules:
- Everything here is a value or a pure function of values: no sockets, no `await`, no clock, no import of `gateway`.
- A `Surface` has no state. It is the counterpart of `backends.base.Engine`: a surface converts from and to the client's
  dialect, an engine from and to the backend's. Between the two, requests are in the canonical dialect, OpenAI's.
- If the client's dialect is the canonical one, the bytes of answers and streams are passed on unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol

from mypy_extensions import mypyc_attr

from backends.base import Headers, Operation, Request


class ErrorFacts(NamedTuple):
    """What a client is told about an error.

    `type` and `code` are OpenAI's values or the gateway's own. `param` names the field of the request that is wrong,
    None if no field is. `status` is the HTTP status of such an error in OpenAI's API, 0 where that is not known.
    """

    message: str
    type: str
    param: str | None
    code: str
    status: int = 0

    def members(self) -> dict[str, str | None]:
        """Return the members of OpenAI's error object."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class Begun(Protocol):
    """What has read or written a stream up to where it broke off."""

    events: int
    """The number of the next event, where the dialect numbers them."""
    identity: str
    """The id of the answer, where the dialect names it again when a stream breaks."""


class Broken(NamedTuple):
    """A stream that broke off: what an event that tells so may name."""

    request: Request | None
    """None where it is not known what was asked for."""
    request_id: bytes
    read: Begun | None = None
    """What has read the stream; None where nothing of it was passed on."""

    @property
    def number(self) -> int:
        """Return the number of the event, where the dialect numbers them."""
        return 0 if self.read is None else self.read.events

    @property
    def identity(self) -> str:
        """Return the id of the answer, where its events had one that is known."""
        return "" if self.read is None else self.read.identity


class InvalidRequest(Exception):
    """The client's request cannot be read.

    With `media_type` its body has the wrong content type (HTTP 415), otherwise its content is wrong (HTTP 400). `param`
    and `code` are the fields of OpenAI's error object.
    """

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, media_type: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.media_type = media_type


@mypyc_attr(allow_interpreted_subclasses=True)
class Surface(ABC):
    """One client dialect."""

    name: ClassVar[str] = "openai"
    """What the dialect is called in the metrics."""
    stream_headers: ClassVar[Headers]
    """The headers of a streamed answer, besides those that the gateway adds."""
    after_heartbeats: ClassVar[bytes] = b"\n"
    """What ends the heartbeats of a stream, before its content; may be nothing."""
    forwarded: ClassVar[tuple[bytes, ...]] = ()
    """The client's headers that belong to the API and that an engine which speaks it gets too."""

    @abstractmethod
    def check(self, operation: Operation, content_type: bytes) -> None:
        """Check the content type of a body before the body is read. Raises InvalidRequest if it is wrong."""

    @abstractmethod
    def read(self, operation: Operation, content_type: bytes, body: bytes) -> Request:
        """Return the canonical request in a body, decoded only as far as the gateway has to know it.

        Raises InvalidRequest if anything is wrong with it.
        """

    @abstractmethod
    def heartbeat(self, words: str) -> bytes:
        """Return the bytes that keep a silent stream alive and say something to people; clients ignore them."""

    def status(self, facts: ErrorFacts, status: int) -> int:
        """Return the HTTP status of an error answer whose status is `status` in OpenAI's API."""
        return status

    def marks(self, request_id: bytes) -> Headers:
        """Return the headers of an answer by which its request is found again."""
        return ((b"x-request-id", request_id),)

    @abstractmethod
    def error(self, facts: ErrorFacts, request_id: bytes = b"") -> bytes:
        """Return the JSON body of an error answer; it names the request where the dialect has a place for that."""

    @abstractmethod
    def error_event(self, facts: ErrorFacts, broken: Broken) -> bytes:
        """Return the bytes that report an error inside a stream; empty if the dialect cannot report one there."""

    def ends(self, broken: Broken) -> bool:
        """Tell whether these bytes are an end of the dialect's own, behind which a stream is complete.

        No client can then take the stream for a success, so the connection need not be closed to prevent that.
        """
        return False

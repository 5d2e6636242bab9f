"""What decoders of streamed replies share: the facts they report, and the rules by which a stream ends.

Rules:
- A stream that ends before it is complete has failed, whatever it brought before.
- A last piece without its terminator counts if it is whole; half of one is dropped.
- After a failure nothing more is decoded.
- This module may be compiled with mypyc: slotted classes with annotated attributes, no msgspec structs.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from mypy_extensions import mypyc_attr

from backends.base import Failure, Kind, Usage
from backends.dialect.errors import read_failure


@mypyc_attr(allow_interpreted_subclasses=True)
class Decoder:
    """The state of one streamed reply; see `backends.base.StreamDecoder`."""

    __slots__ = ("content", "enough", "events", "failure", "finished", "growing", "identity", "over", "usage")

    def __init__(self) -> None:
        self.content: int = 0
        self.events: int = 0
        """The number of the next event, where the API numbers them."""
        self.identity: str = ""
        """The id of the answer, where the API names it again when a stream breaks."""
        self.usage: Usage | None = None
        self.finished: bool = False
        self.failure: Failure | None = None
        self.growing: bool = False
        self.over: bool = False
        """Whether nothing more is decoded, because the stream failed or its last event was seen."""
        self.enough: bool = False
        """Whether the answer is complete although the engine goes on, so that the engine should be left."""

    def feed(self, data: bytes) -> bytes:
        """Process the next bytes of the reply; return whole SSE events for the client, possibly none."""
        raise NotImplementedError

    def close(self) -> bytes:
        """Process the end of the reply; return what is still to be sent."""
        raise NotImplementedError

    def bound(self, size: int) -> None:
        """Fail with `Kind.LIMIT` where one event is larger than `size` bytes."""

    def fail(self, failure: Failure) -> None:
        """Record the stream's failure and decode nothing more."""
        self.failure = failure
        self.over = True

    def fail_incomplete(self) -> None:
        """Record that the reply ended before it was complete."""
        self.fail(Failure(Kind.RESET, "the engine's stream ended before it was complete"))


class Framer(Protocol):
    """Cuts a byte stream into pieces: events or lines. See `backends.framing`."""

    limit: int
    """The most bytes of one piece."""
    too_long: bool
    """Whether a piece grew beyond the limit; nothing more is read then."""
    growing: bool
    """Whether a piece has begun and not ended."""
    error: bytes | None
    """The payload of a piece whose frame says that it is an error; nothing is read after it."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the pieces that these bytes complete."""

    def close(self) -> list[bytes]:
        """Return the last piece, if its terminator is missing."""


@mypyc_attr(allow_interpreted_subclasses=True)
class FramedDecoder(Decoder):
    """A decoder that handles its reply piece by piece, as a framer cuts it."""

    __slots__ = ("_framer",)

    piece: ClassVar[str] = "an event"
    """What the framer's pieces are called in messages."""

    def __init__(self, framer: Framer) -> None:
        super().__init__()
        self._framer: Framer = framer

    def bound(self, size: int) -> None:
        self._framer.limit = size

    def feed(self, data: bytes) -> bytes:
        if self.over:
            return b""
        framer = self._framer
        out = b"".join([self._event(piece) for piece in framer.feed(data)])
        self.growing = framer.growing
        if framer.too_long and not self.over:
            message = f"{self.piece} in the engine's stream is longer than {framer.limit} bytes"
            self.fail(Failure(Kind.LIMIT, message))
        self._look_for_error()
        return out

    def close(self) -> bytes:
        out = b"".join([self._event(piece) for piece in self._framer.close() if self._is_whole(piece)])
        self._look_for_error()
        return out if self.over else out + self._end()

    def _look_for_error(self) -> None:
        """Fail if the frame of a piece said that it is an error."""
        error = self._framer.error
        if error is not None and not self.over:
            self.fail(self._error(error))

    def _error(self, payload: bytes) -> Failure:
        """Return the failure that an error in the stream means."""
        return read_failure(500, (), payload)

    def _event(self, piece: bytes) -> bytes:
        """Return what the client gets for one piece. It may be called after the stream is over."""
        raise NotImplementedError

    def _is_whole(self, piece: bytes) -> bool:
        """Return whether a last piece without its terminator is whole."""
        return True

    def _end(self) -> bytes:
        """Return what follows the last piece, where nothing failed; fail if the stream is not complete."""
        if not self.finished:
            self.fail_incomplete()
        return b""

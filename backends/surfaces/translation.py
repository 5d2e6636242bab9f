"""Say a client's request in another API, and the answer in the client's: for engines that lack the API it speaks.

Rules:
- A codec is pure, and knows no engine: what an engine says has passed its adapter before, so that a codec reads only
  complete, valid answers of the canonical dialect, and one codec serves all engines.
- A stream gets its end from `Writer.end` and nowhere else, and that is called when the engine's stream was complete. A
  stream that breaks off, that cannot be decoded or that reports an error gets none: `Surface.error_event` follows.
- More text of the same kind is passed on without being decoded, as `backends.dialect.stream` does it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec
from mypy_extensions import mypyc_attr

from backends.base import (
    Call,
    Engine,
    Failure,
    Kind,
    Operation,
    Reply,
    Request,
    RequestError,
    StreamDecoder,
    Usage,
)
from backends.dialect import rewrite
from backends.dialect.decoder import Decoder
from backends.dialect.dropped import tellable
from backends.dialect.errors import reason_of
from backends.dialect.stream import find_text, is_text
from backends.framing import sse
from backends.surfaces.surface import InvalidRequest

_DONE = b"[DONE]"
_BETWEEN = b"\n\n"


class Said(NamedTuple):
    """A request in another API, and the names of what it could not say there.

    `x-gateway-dropped` tells them, as far as a header can hold them: they may be anything that a client wrote.
    """

    request: Request
    dropped: Sequence[str] = ()


def said(
    request: Request, operation: Operation, members: Mapping[str, Any], dropped: Sequence[str] = ()
) -> Said:
    """Return a client's request as one for another operation of OpenAI's, with these members beside its model."""
    made: dict[str, Any] = {"model": request.model, **members}
    if request.stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    changed = msgspec.structs.replace(
        request,
        operation=operation,
        body=msgspec.json.encode(made),
        headers=(),
        stream_options=request.stream,
        include_usage=request.stream,
    )
    return Said(changed, dropped)


class Clock:
    """The time, for dialects whose answers tell it: since when the request is under way, and what time it is.

    In nanoseconds since the epoch.
    """

    __slots__ = ("_now", "began")

    def __init__(self, now: Callable[[], int]) -> None:
        """Begin now, as `now` has it."""
        self._now: Callable[[], int] = now
        self.began: int = now()

    def now(self) -> int:
        """Return the time."""
        return self._now()


@mypyc_attr(allow_interpreted_subclasses=True)
class Writer(ABC):
    """Writes one stream in the client's dialect."""

    def __init__(self) -> None:
        self.events: int = 0
        """The number of the next event, where the dialect numbers them."""
        self.identity: str = ""
        """The id of the answer, where the dialect names it again when a stream breaks."""
        self.continues: bool = False
        """Whether the last event was text and nothing else, which `text` may continue."""
        self.foreword: bool = False
        """Whether what is written now is the gateway's word on its engine's start, and not yet the model's."""

    @abstractmethod
    def event(self, payload: bytes) -> bytes:
        """Return what the client gets for an event of the canonical stream, possibly nothing.

        Raise ValueError, LookupError or TypeError if it cannot be read.
        """

    @abstractmethod
    def text(self, text: bytes) -> bytes:
        """Return what the client gets for more of the last event's text: the inside of a JSON string."""

    def end_foreword(self) -> bytes:
        """Return the end of the gateway's own words, so that the model's thoughts stand apart from them."""
        self.foreword = False
        return b""

    @abstractmethod
    def end(self, usage: Usage) -> bytes:
        """Return the end of a stream that is complete."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Codec(ABC):
    """How one operation of a client's dialect is said in an API that more engines have."""

    operation: ClassVar[Operation]
    """What the client asks for."""
    said_as: ClassVar[Operation]
    """What the engine is asked for instead."""
    lines_alone: ClassVar[bool] = False
    """Whether each event of a stream stands alone, so that others than its writer may have written those before."""
    own_names: ClassVar[bool] = False
    """Whether parameters have other names or places in the client's dialect, so that what a model settles of them holds
    for what is said instead."""
    wishes: ClassVar[frozenset[str]] = frozenset()
    """Members of what is said that are left out where the engine refuses them: clients of this dialect send them
    whether they matter or not."""

    def at(self, clock: Clock) -> Codec:
        """Return the codec for one request that is under way since `clock`: itself, unless answers tell durations."""
        return self

    @abstractmethod
    def asked(self, request: Request) -> Said:
        """Return the request for the engine. Raise InvalidRequest where it is wrong or cannot be said there."""

    def without(self, said: Request, name: str) -> Said | None:
        """Return what is said without a member that the engine refuses; None where that may not be left out."""
        members = rewrite.members(said.body) if name in self.wishes else {}
        if members.pop(name, None) is None:
            return None
        return Said(msgspec.structs.replace(said, body=rewrite.joined(members)), (name,))

    @abstractmethod
    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        """Return a whole answer in the client's dialect; `request` is the client's.

        Raise ValueError, LookupError or TypeError if it cannot be read.
        """

    @abstractmethod
    def writer(self, request: Request) -> Writer:
        """Return a new writer for one stream; `request` is the client's."""


class Translation:
    """One request that is said in another API.

    `said` is the request for the engine, `dropped` names what it does not say. `writer` has written the beginning of
    the client's stream already; None where nothing of it was written.
    """

    __slots__ = ("_codec", "_request", "dropped", "said", "writer")

    def __init__(self, codec: Codec, request: Request, now: Callable[[], int]) -> None:
        """Translate `request`. Raise RequestError where it is wrong or cannot be translated.

        `now` returns the time, in nanoseconds since the epoch.
        """
        self._codec: Codec = codec.at(Clock(now))
        self._request: Request = request
        self.writer: Writer | None = None
        try:
            said = codec.asked(request)
        except InvalidRequest as error:
            failure = Failure(Kind.REJECTED, error.message, code=error.code, param=error.param)
            raise RequestError(failure) from None
        self.said: Request = said.request
        self.dropped: tuple[str, ...] = tellable(said.dropped)

    def call(self, engine: Engine, model: str) -> Call:
        """Return the HTTP request that asks `engine` for it, without those wishes that the engine refuses.

        Raise RequestError where it cannot be asked for the rest.
        """
        while True:
            try:
                return engine.call(self.said, model)
            except RequestError as error:
                found = self._codec.without(self.said, error.failure.param or "")
                if found is None:
                    raise
                self.said = found.request
                self.dropped += tuple(found.dropped)

    def decoder(self, decoder: StreamDecoder) -> StreamDecoder:
        """Return a decoder that says in the client's dialect what `decoder` reads of the engine."""
        return Translator(decoder, self._writer())

    def _writer(self) -> Writer:
        return self._codec.writer(self._request) if self.writer is None else self.writer

    def reply(self, found: Reply) -> Reply | Failure:
        """Return an answer that has arrived completely in the client's dialect."""
        try:
            if self._request.stream:
                body = _streamed(self._writer(), found)
            else:
                body = self._codec.answer(self._request, found.body, found.usage or Usage())
        except (ValueError, LookupError, TypeError) as error:
            return _untranslatable(error)
        return Reply(body, found.usage)


def _streamed(writer: Writer, found: Reply) -> bytes:
    """Return the whole canonical stream of an answer in the client's dialect."""
    parts = [
        writer.event(payload)
        for block in found.body.split(_BETWEEN)
        if (payload := sse.payload(block)) and payload != _DONE
    ]
    return b"".join([*parts, writer.end(found.usage or Usage())])


def _untranslatable(error: Exception) -> Failure:
    message = "the engine's answer cannot be said in the API that was called"
    return Failure(Kind.GARBLED, message, facts=reason_of(error))


class Translator(Decoder):
    """Reads a stream as its engine's decoder does, and says it in the client's dialect.

    See `backends.base.StreamDecoder`, which it is.
    """

    __slots__ = ("_decoder", "_head", "_tail", "_writer")

    def __init__(self, decoder: StreamDecoder, writer: Writer) -> None:
        super().__init__()
        self._decoder: StreamDecoder = decoder
        self._writer: Writer = writer
        self._head: bytes = b""
        """The bytes before the text of the last event; empty if nothing may continue it."""
        self._tail: bytes = b""

    def bound(self, size: int) -> None:
        self._decoder.bound(size)

    def feed(self, data: bytes) -> bytes:
        events = self._decoder.feed(data)
        head = self._head
        if head and events.startswith(head) and events.endswith(self._tail):
            first, last = len(head), len(events) - len(self._tail)
            if is_text(events, first, last):
                self.content = self._decoder.content
                said = self._writer.text(events[first:last])
                self.events = self._writer.events
                return said
        return self._said(events)

    def close(self) -> bytes:
        return self._said(self._decoder.close())

    def _said(self, events: bytes) -> bytes:
        """Return whole events of the canonical stream in the client's dialect, and take note of what passed."""
        out: list[bytes] = []
        if events and not self.over:
            try:
                for block in events.removesuffix(_BETWEEN).split(_BETWEEN):
                    out.append(self._event(block))  # noqa: PERF401 (what came before a failure is kept)
            except (ValueError, LookupError, TypeError) as error:
                self.fail(_untranslatable(error))
        decoder = self._decoder
        if decoder.failure is not None and not self.over:
            self.fail(decoder.failure)
        self.finished = decoder.finished and self.failure is None
        self.content, self.usage = decoder.content, decoder.usage
        self.enough, self.growing = decoder.enough, decoder.growing
        self.events, self.identity = self._writer.events, self._writer.identity
        return b"".join(out)

    def _event(self, block: bytes) -> bytes:
        payload = sse.payload(block)
        self._head = b""
        if not payload:
            return b""
        if payload == _DONE:
            # Where the engine counts nothing, each piece of content counts as one token, as in the metrics.
            return self._writer.end(self._decoder.usage or Usage(output=self._decoder.content))
        out = self._writer.event(payload)
        if self._writer.continues:
            self._learn(block)
        return out

    def _learn(self, block: bytes) -> None:
        """Remember the bytes around the text of an event, so that the next one like it need not be decoded."""
        event = block + _BETWEEN
        text = find_text(event)
        if text is not None:
            self._head, self._tail = event[: text.start(1)], event[text.end(1) :]

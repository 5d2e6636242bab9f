"""Watch answers whose bytes pass unchanged, of all operations but chat and completions: is one complete, or an error?

Rules:
- Nothing is rebuilt. A stream's events keep their `event` lines; only the model's name is replaced.
- A whole answer must have the member that holds its result, and where its API has one a reason why it ended. A stream
  is complete when the last event of its API has come; `[DONE]` or the end of the connection alone proves nothing.
- A transcription may be text, whatever its content type, but for a page of HTML.
- An error inside an answer is the engine's failure, whatever status it was sent with.
- Sound passes in pieces; only the end of the transfer can say that it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from backends.base import Engine, Failure, Headers, Kind, Operation, Reply, Request, StreamDecoder, Usage
from backends.dialect import content, messages, ranking, reasons, responses, rewrite
from backends.dialect.decoder import Decoder, FramedDecoder
from backends.dialect.errors import garbled
from backends.dialect.shapes import SILENT, check_text, is_error
from backends.dialect.usage import count, merged, usage_of, usage_of_digits
from backends.framing import sse


class _Result(NamedTuple):
    """The member of an answer that holds its result, how its JSON may begin, and whether it may be empty."""

    member: str
    opening: bytes | tuple[bytes, ...]
    empty: bool = False


_RESULTS: Mapping[Operation, _Result] = {
    Operation.RERANK: _Result("results", b"["),
    Operation.SCORE: _Result("data", b"["),
    Operation.TOKENIZE: _Result("tokens", b"[", empty=True),
    Operation.DETOKENIZE: _Result("prompt", b'"', empty=True),
    Operation.INFILL: _Result("content", b'"', empty=True),
    Operation.RESPONSES: _Result("output", b"[", empty=True),
    Operation.MESSAGES: _Result("content", b"[", empty=True),
    Operation.COUNT_TOKENS: _Result("input_tokens", tuple(b"%d" % digit for digit in range(10)), empty=True),
    Operation.TRANSCRIPTIONS: _Result("text", b'"', empty=True),
    Operation.TRANSLATIONS: _Result("text", b'"', empty=True),
    Operation.IMAGES: _Result("data", b"["),
    Operation.IMAGE_EDITS: _Result("data", b"["),
    Operation.IMAGE_VARIATIONS: _Result("data", b"["),
}

_TEXTS = (b"text/plain", b"text/vtt", b"text/srt", b"application/x-subrip")
"""Content types of a transcription, beside JSON; the request chooses one."""
_OPEN = (b"", b"null", b'""', b'"null"')
"""The `stop_reason` of a message that was broken off."""
_PLAIN = b"text/plain; charset=utf-8"
_SPOKEN = (Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS)

_BROKEN = frozenset({"error", "response.failed"})
_WITH_RESPONSE = frozenset({"response.completed", "response.incomplete"})
"""The types of the events that hold the whole response, from which clients take it."""


class _Inner(msgspec.Struct):
    """An object within an event that may name the model and count tokens."""

    model: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    id: Any = None


class _Event(msgspec.Struct):
    """An event of any of these APIs. `message` is an object only in the first event of Anthropic's.

    `delta` to `prompt_progress` are those of `backends.dialect.content.Members`.
    """

    type: Any = None
    object: Any = None
    error: Any = None
    model: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    delta: Any = None
    audio: Any = None
    item: Any = None
    part: Any = None
    text: Any = None
    content_block: Any = None
    content: Any = None
    prompt_progress: Any = None
    sequence_number: Any = None
    logprobs: Any = None
    stop: Any = None
    tokens_evaluated: Any = None
    tokens_predicted: Any = None
    choices: Any = None

    def choice_members(self) -> list[dict[str, Any]]:
        """Return the choices of an event: vLLM (0.33) streams transcriptions as if they were chats."""
        choices = self.choices if isinstance(self.choices, list) else []
        return [choice for choice in choices if isinstance(choice, dict)]


_event = msgspec.json.Decoder(_Event)
_inner = msgspec.json.Decoder(_Inner)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_anything = msgspec.json.Decoder()


def reply(engine: Engine, request: Request, headers: Headers, body: bytes) -> Reply | Failure:
    """Interpret a complete answer, for the operations in `OPERATIONS`."""
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    if request.operation is Operation.SPEECH and kind and not _is_json(kind):
        return Reply(body, Usage(), kind) if body else garbled("the engine's reply is empty", body)
    if request.operation in _SPOKEN and (text := _spoken(kind, body)) is not None:
        if request.stream:
            return _streamed_text(text)
        named = kind.lower().startswith((*_TEXTS, b"application/json"))
        return Reply(body, None, kind if named else _PLAIN)
    try:
        check_text(body)
        members = _members.decode(body)
    except (ValueError, RecursionError) as error:
        return garbled("the engine's reply is not the JSON object expected", body, error)
    if _said(members, "error") not in SILENT or _said(members, "object") == b'"error"':
        return engine.failure(500, headers, body)
    result = _RESULTS.get(request.operation)
    if result is None or not _holds(members, result):
        return garbled("the engine's reply has no result in it", body)
    if request.operation is Operation.MESSAGES and _said(members, "stop_reason") in _OPEN:
        return reasons.broke_off(None)
    if request.stream:
        return _streamed(request, members, body)
    name = msgspec.json.encode(request.model)
    usage = usage_of(_anything.decode(members.get("usage", b"null")), any_api=True)
    if usage is None:
        usage = usage_of_digits(_said(members, "tokens_evaluated"), _said(members, "tokens_predicted"))
    body = rewrite.renamed(body, _said(members, "model"), name)
    try:
        return Reply(_as_asked(request, members, body), usage)
    except (ValueError, TypeError) as error:
        return garbled("the engine's result cannot be read", body, error)


def _as_asked(request: Request, members: Mapping[str, msgspec.Raw], body: bytes) -> bytes:
    """Return an answer with what its API's clients need of it. Raise ValueError or TypeError if it cannot be read."""
    if request.operation is Operation.RERANK:
        return ranking.answered(request.body, body)
    if request.operation is Operation.RESPONSES:
        return responses.whole(request, body)
    if request.operation is Operation.MESSAGES and _said(members, "stop_sequence")[:1] == b'"':
        return messages.stopped(body)
    return body


def _said(members: Mapping[str, msgspec.Raw], name: str) -> bytes:
    """Return the JSON of a member; empty if it is missing."""
    return bytes(members.get(name, b""))


def _holds(members: Mapping[str, msgspec.Raw], result: _Result) -> bool:
    """Return whether an answer has its result."""
    value = _said(members, result.member)
    return value.startswith(result.opening) and (result.empty or value[1:].lstrip() != b"]")


def _streamed(request: Request, members: Mapping[str, msgspec.Raw], body: bytes) -> Reply | Failure:
    """Return a whole transcription as the stream that was asked for, which models that cannot stream answer with.

    For any other operation a whole answer to a stream request is a failure.
    """
    if request.operation not in _SPOKEN:
        return garbled("the engine did not answer with the stream that was asked for", body)
    return _streamed_text(members["text"])


def _streamed_text(text: str | msgspec.Raw) -> Reply:
    """Return a transcription as a stream."""
    events = (
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text},
    )
    return Reply(b"".join(sse.encode(msgspec.json.encode(event)) for event in events))


def _spoken(kind: bytes, body: bytes) -> str | None:
    """Return a transcription that is text or a JSON string; None for an object or anything else."""
    begin = body.lstrip()[:1]
    if kind.lower().startswith(_TEXTS) or (not _is_json(kind) and begin not in (b"<", b"{", b'"')):
        return body.decode(errors="replace")
    if begin != b'"':
        return None
    try:
        text: str = _string.decode(body)
    except ValueError:
        return None
    return text


def _is_json(kind: bytes) -> bool:
    """Return whether a content type is JSON."""
    return kind.partition(b";")[0].strip().lower().endswith(b"json")


class Events(FramedDecoder):
    """Watches a stream of events and passes them on unchanged; see `backends.base.StreamDecoder`."""

    __slots__ = ("_engine", "_name")

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__(sse.Blocks())
        self._engine = engine
        self._name = msgspec.json.encode(request.model)

    def _event(self, piece: bytes) -> bytes:
        error = None if self.over else sse.error_of(piece)
        if error is not None:
            self.fail(self._error(error))
        payload = sse.payload(piece)
        if self.over or payload is None or payload in SILENT:
            return b""
        if payload.strip() == b"[DONE]":
            if not self.finished:
                message = "the engine ended its stream without the event that completes it"
                self.fail(Failure(Kind.GARBLED, message, unexplained=True))
                return b""
            return piece + b"\n\n"
        try:
            check_text(payload)
            said = _event.decode(payload)
        except (ValueError, RecursionError) as wrong:
            self.fail(garbled("the engine sent an event that is not valid", payload, wrong))
            return b""
        if is_error(said.error, said.object) or said.type in _BROKEN:
            # A failed response holds its error.
            self.fail(self._error(bytes(said.response) or payload))
            return b""
        if said.type in _WITH_RESPONSE and not bytes(said.response).startswith(b"{"):
            self.fail(garbled("the engine ended its stream without the response", payload))
            return b""
        self._note(said)
        if self.over:
            return b""
        self.events += 1
        return self._renamed(piece, said) + b"\n\n"

    def _error(self, payload: bytes) -> Failure:
        return self._engine.failure(500, (), payload)

    def _is_whole(self, piece: bytes) -> bool:
        try:
            _event.decode(sse.payload(piece) or b"")
        except (ValueError, RecursionError):
            return False
        return True

    def _note(self, said: _Event) -> None:
        """Record the content and the tokens in an event, and whether it is the last one."""
        kind = said.type if isinstance(said.type, str) else ""
        # The events that end an item or a part say once more what its deltas have said.
        self.content += content.in_event(kind, said) and not (self.content and kind.endswith(".done"))
        if kind in content.LAST or said.stop is True or any(map(_ends, said.choice_members())):
            self.finished = True
        for usage in (said.usage, *(inner.usage for inner in _inners(said))):
            counted = usage_of(usage, any_api=True)
            if counted is not None:
                self._add(counted)
        if said.tokens_predicted is not None and said.stop is True:
            self._add(Usage(count(said.tokens_evaluated), count(said.tokens_predicted)))

    def _add(self, counted: Usage) -> None:
        """Merge counts: Anthropic's streams count the prompt in their first event and the answer in a later one."""
        self.usage = merged(self.usage, counted)

    def _renamed(self, block: bytes, said: _Event) -> bytes:
        """Return an event with the model's name as the client knows it."""
        for model in (said.model, *(inner.model for inner in _inners(said))):
            block = rewrite.renamed(block, bytes(model), self._name)
        return block


class ResponseEvents(Events):
    """Watches a stream of OpenAI's Responses API, and completes events that lack what strict clients need."""

    __slots__ = ("_numbering",)

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__(engine, request)
        self._numbering = responses.Numbering(request)

    def _renamed(self, block: bytes, said: _Event) -> bytes:
        block = super()._renamed(block, said)
        if not self.identity:
            self.identity = next((inner.id for inner in _inners(said) if isinstance(inner.id, str)), "")
        payload = sse.payload(block) or b""
        number = said.sequence_number
        if type(number) is not int:
            return self._numbering.completed(payload, self.events - 1)
        self.events = number + 1
        if said.type in content.LAST:
            return self._numbering.last(block, payload, number)
        if said.logprobs is None and said.type in responses.WITH_LOGPROBS:
            return self._numbering.completed(payload, number)
        return block


class MessageEvents(Events):
    """Watches a stream of Anthropic's Messages API, which begins with `message_start` and tells why it ended.

    llama.cpp (b11549) leaves out the beginning where the model opens with a part of a character, and llama.cpp and vLLM
    (0.32) what typed clients need of a block that begins; both are added here.
    """

    __slots__ = ("_ended", "_started")

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__(engine, request)
        self._started = False
        self._ended = False

    def _note(self, said: _Event) -> None:
        super()._note(said)
        delta = said.delta if isinstance(said.delta, dict) else {}
        if said.type == "message_delta" and not reasons.is_open(delta.get("stop_reason")):
            self._ended = True
        elif said.type == "message_stop" and not self._ended:
            self.finished = False
            self.fail(reasons.broke_off(None))

    def _renamed(self, block: bytes, said: _Event) -> bytes:
        block = super()._renamed(block, said)
        if said.type == "message_delta" and isinstance(said.delta, dict) and said.delta.get("stop_sequence"):
            block = messages.stopped(block)
        elif said.type == "content_block_start":
            block = messages.begun(block, said.content_block)
        if self._started or said.type == "ping":
            return block
        self._started = True
        return block if said.type == "message_start" else messages.beginning(self._name) + block


class Pieces(Decoder):
    """Passes sound on as it comes; see `backends.base.StreamDecoder`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.usage = Usage()

    def feed(self, data: bytes) -> bytes:
        self.content += bool(data)
        return data

    def close(self) -> bytes:
        if self.content:
            self.finished = True
        else:
            self.fail(Failure(Kind.GARBLED, "the engine's reply is empty"))
        return b""


def _speech(engine: Engine, request: Request) -> StreamDecoder:
    return Events(engine, request) if request.stream else Pieces()


DECODERS: Mapping[Operation, Callable[[Engine, Request], StreamDecoder]] = {
    Operation.INFILL: Events,
    Operation.RESPONSES: ResponseEvents,
    Operation.MESSAGES: MessageEvents,
    Operation.TRANSCRIPTIONS: Events,
    Operation.TRANSLATIONS: Events,
    Operation.SPEECH: _speech,
    Operation.IMAGES: Events,
    Operation.IMAGE_EDITS: Events,
    Operation.IMAGE_VARIATIONS: Events,
}
"""The decoder of each operation that has streams."""

OPERATIONS = frozenset(_RESULTS) | frozenset(DECODERS)
"""The operations whose answers this module interprets."""


def _inners(said: _Event) -> list[_Inner]:
    """Return the objects within an event that may name the model and count tokens."""
    return [_inner.decode(raw) for raw in (said.response, said.message) if bytes(raw).startswith(b"{")]


def _ends(choice: dict[str, Any]) -> bool:
    """Return whether a choice has its finish reason."""
    return bool(choice.get("finish_reason"))

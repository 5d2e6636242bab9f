"""The base engine: OpenAI's own dialect. Attaches to any OpenAI-compatible URL; others differ from it in details.

Rules:
- The client's bytes go out as they came. Only `model` is put in place, and usage is asked for in streams.
- A stream is watched, not rebuilt. Each event is decoded, or is like one that was, except for its text: the same head,
  the same tail, between them the inside of a JSON string. Such an event says more text and nothing else.
- A stream is complete when every choice in it has its finish reason. `[DONE]` alone is no proof: engines that break off
  a generation send it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from backends.base import (
    FORMS,
    Call,
    Engine,
    Failure,
    Headers,
    Health,
    Kind,
    ModelCard,
    Operation,
    Reply,
    Request,
    StreamDecoder,
    Usage,
)
from backends.dialect import passed, rewrite
from backends.dialect.errors import garbled, read_failure
from backends.dialect.unstreamed import stream_of
from backends.framing import sse

PATHS = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.COMPLETIONS: "/v1/completions",
    Operation.EMBEDDINGS: "/v1/embeddings",
    Operation.RERANK: "/v1/rerank",
    Operation.SCORE: "/v1/score",
    Operation.TOKENIZE: "/tokenize",
    Operation.DETOKENIZE: "/detokenize",
    Operation.INFILL: "/infill",
    Operation.RESPONSES: "/v1/responses",
    Operation.MESSAGES: "/v1/messages",
    Operation.TRANSCRIPTIONS: "/v1/audio/transcriptions",
    Operation.TRANSLATIONS: "/v1/audio/translations",
    Operation.SPEECH: "/v1/audio/speech",
    Operation.IMAGES: "/v1/images/generations",
}
"""Where the operations are, unless an engine's `paths` says otherwise. They are the gateway's own paths too."""

_TEXT_KEYS = rb"content|text|reasoning|reasoning_content|arguments"
_TEXT = rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])++'
_is_text = re.compile(_TEXT).fullmatch
_find_text = re.compile(rb'"(?:' + _TEXT_KEYS + rb')": ?"(' + _TEXT + rb')"').search


# Members whose type engines do not agree on are `Any`: what counts is whether there is something in them.


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Delta | None = None
    text: Any = None
    finish_reason: str | None = None

    def speaks(self) -> bool:
        if self.text:
            return True
        said = self.delta
        return said is not None and bool(
            said.content
            or said.reasoning_content
            or said.reasoning
            or said.tool_calls
            or said.refusal
            or said.function_call
        )


class _Event(msgspec.Struct):
    object: Any = None
    model: msgspec.Raw = msgspec.Raw()
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class _Ending(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    object: Any = None
    model: msgspec.Raw = msgspec.Raw()
    choices: list[_Ending] | None = None
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    parent: Any = None
    """The model a LoRA adapter belongs to, whose length is its own."""


class _Models(msgspec.Struct):
    data: list[_Card]


_event = msgspec.json.Decoder(_Event)
_answer = msgspec.json.Decoder(_Answer)
_models = msgspec.json.Decoder(_Models)


class OpenAICompatible(Engine):
    """What every engine that speaks OpenAI's API has in common."""

    stream_types: ClassVar[tuple[bytes, ...]] = (b"text/event-stream", b"audio/")
    paths: ClassVar[Mapping[Operation, str]] = {}
    """Operations that are not where `PATHS` says."""
    broken: ClassVar[frozenset[str]] = frozenset({"error"})
    """Finish reasons that say that the engine broke off: no answer, but a failure."""

    def call(self, request: Request, model: str) -> Call:
        operation = request.operation
        path = self.paths.get(operation) or PATHS[operation]
        if operation in FORMS:
            return Call(path, rewrite.form(request, model), content_type=request.content_type)
        return Call(path, rewrite.request_body(request, model))

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation in passed.OPERATIONS:
            return passed.reply(self, request, headers, body)
        try:
            answer = _answer.decode(body)
        except (ValueError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        if _is_error(answer):
            return self.failure(500, headers, body)
        if not (answer.data if request.operation is Operation.EMBEDDINGS else answer.choices):
            return garbled("the engine's reply has no result in it", body)
        if any(choice.finish_reason in self.broken for choice in answer.choices or ()):
            return Failure(Kind.FAILED, BROKE_OFF)
        counted = _usage_of(answer.usage)
        if not request.stream:
            name = msgspec.json.encode(request.model)
            return Reply(rewrite.renamed(body, bytes(answer.model), name), counted)
        try:
            return Reply(stream_of(request, body), counted)
        except (ValueError, RecursionError) as error:
            return garbled("the engine's reply cannot be made the stream that was asked for", body, error)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        watch = passed.DECODERS.get(request.operation, EventStream)
        return watch(self, request)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        return read_failure(status, headers, body)

    def health(self) -> Call:
        """The model list: the one cheap question every OpenAI-compatible server answers."""
        return self.models()

    def health_of(self, status: int, body: bytes) -> Health:
        # A server that wants other credentials for its model list is up all the same.
        return Health.READY if status < 500 else Health.DOWN

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        try:
            cards = _models.decode(body).data
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a list of models: {error}") from error
        known = {card.id: card.max_model_len for card in cards}
        return tuple(ModelCard(card.id, card.max_model_len or known.get(str(card.parent))) for card in cards)


class _Like(NamedTuple):
    """What stands around the text of a decoded event. `public` is the same as the client sees it, if that differs."""

    head: bytes
    tail: bytes
    public: tuple[bytes, bytes] | None


class EventStream:
    """Watches one stream of OpenAI chunks; see `backends.base.StreamDecoder`."""

    __slots__ = (
        "_begun",
        "_ended",
        "_engine",
        "_framer",
        "_like",
        "_name",
        "_over",
        "_strip_usage",
        "content",
        "failure",
        "finished",
        "usage",
    )

    def __init__(self, engine: OpenAICompatible, request: Request) -> None:
        self.content = 0
        self.usage: Usage | None = None
        self.finished = False
        self.failure: Failure | None = None
        self._engine = engine
        self._framer = sse.Framer()
        self._name = msgspec.json.encode(request.model)
        self._strip_usage = not request.include_usage
        self._like: _Like | None = None
        self._begun: set[int | None] = set()
        self._ended: set[int | None] = set()
        self._over = False

    def feed(self, data: bytes) -> bytes:
        # One event, whole, and like another: what nearly every read of a token stream is.
        if self._framer.idle and (event := self._more(data)) is not None:
            return event
        if self._over:
            return b""
        out = b"".join([self._event(payload) for payload in self._framer.feed(data)])
        if self._framer.too_long and not self._over:
            self._fail(
                Failure(Kind.GARBLED, f"an event in the engine's stream is longer than {sse.LIMIT} bytes")
            )
        return out

    def close(self) -> bytes:
        # A last event without its blank line counts if it is whole; half of one says nothing.
        out = b"".join([self._event(payload) for payload in self._framer.close() if _is_whole(payload)])
        if self._over:
            return out
        if not self.finished:
            self._fail(Failure(Kind.RESET, "the engine's stream ended before it was complete"))
            return out
        self._end()
        return out + _DONE

    def more(self, data: bytes, start: int, end: int) -> bytes | None:
        """Take `data[start:end]` if that is one whole event, like the one before but for its text. Return the event for
        the client, `data` itself where it is the same; None where nothing was taken, and `feed` has to be asked."""
        like = self._like
        if like is None or not self._framer.idle:
            return None
        head, tail = like.head, like.tail
        first, last = start + len(head), end - len(tail)
        if not (data.startswith(head, start, end) and data.endswith(tail, first, end)):
            return None
        if not _is_text(data, first, last):
            return None
        self.content += 1
        public = like.public
        return data if public is None else public[0] + data[first:last] + public[1]

    def _more(self, event: bytes) -> bytes | None:
        """The event for the client if it is like the one before but for its text; else None."""
        like = self._like
        if like is None or not (event.startswith(like.head) and event.endswith(like.tail)):
            return None
        start, end = len(like.head), len(event) - len(like.tail)
        if not _is_text(event, start, end):
            return None
        self.content += 1
        return event if like.public is None else like.public[0] + event[start:end] + like.public[1]

    def _event(self, payload: bytes) -> bytes:
        """What the client gets for one event."""
        if self._over or payload in _NOTHING:
            return b""
        # Several data lines made a line feed; between JSON tokens it is only white space.
        event = sse.encode(payload.replace(b"\n", b" "))
        more = self._more(event)
        if more is not None:
            return more
        if payload.strip() == b"[DONE]":
            return self._on_done()
        return self._decode(payload, event)

    def _on_done(self) -> bytes:
        if not self._ended:
            self._fail(Failure(Kind.GARBLED, "the engine ended its stream without a finish reason"))
            return b""
        self.finished = True
        self._end()
        return _DONE

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        try:
            said = _event.decode(payload)
        except (ValueError, RecursionError) as error:
            self._fail(garbled("the engine sent an event that is not valid", payload, error))
            return b""
        if _is_error(said):
            self._fail(self._engine.failure(500, (), payload))
            return b""
        counted = _usage_of(said.usage)
        if counted is not None:
            self.usage = counted
            if self._strip_usage:
                if not said.choices:
                    return b""
                # Rare: usage beside content, which the client would take for the other's.
                event = sse.encode(rewrite.without(payload, "usage"))
        speaks = self._note(said.choices or ())
        if self._over:
            return b""
        public = self._public(event, said)
        if speaks and counted is None:
            self._learn(event, public)
        return public

    def _public(self, event: bytes, said: _Event) -> bytes:
        """A decoded event as the client sees it. One that is like it but for its text is seen alike."""
        return rewrite.renamed(event, bytes(said.model), self._name)

    def _note(self, choices: Sequence[_Choice]) -> bool:
        """Count what an event's choices say. True if that is content."""
        speaks = False
        for choice in choices:
            self._begun.add(choice.index)
            if choice.finish_reason:
                self._ended.add(choice.index)
                if choice.finish_reason in self._engine.broken:
                    self._fail(Failure(Kind.FAILED, BROKE_OFF))
            speaks = speaks or choice.speaks()
        self.content += speaks
        self.finished = bool(self._ended) and self._begun <= self._ended
        return speaks

    def _learn(self, event: bytes, public: bytes) -> None:
        """Remember what stands around the text, so that the next event like this one need not be decoded."""
        text = _find_text(event)
        if text is None:
            return
        around = None
        if public != event and (same := _find_text(public)) is not None:
            around = public[: same.start(1)], public[same.end(1) :]
        self._like = _Like(event[: text.start(1)], event[text.end(1) :], around)

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._end()

    def _end(self) -> None:
        self._over = True
        self._like = None


BROKE_OFF = "the engine broke off its answer because of an error of its own"
_DONE = b"data: [DONE]\n\n"
_NOTHING = (b"", b"null")
"""Events that say nothing. llama.cpp b11549 sends `null` when a list of prompts waits for its slots."""


def _is_error(said: _Event | _Answer) -> bool:
    """An error object where an answer should be: under `error`, or flat with `"object": "error"`."""
    return bool(said.error) or said.object == "error"


def _usage_of(said: Any) -> Usage | None:
    """The tokens counted. A count that cannot be read spoils the books, not the answer."""
    if not isinstance(said, dict):
        return None
    read, written = said.get("prompt_tokens"), said.get("completion_tokens")
    if type(read) is not int and type(written) is not int:
        return None
    details = said.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(_count(read), _count(written), _count(cached))


def _count(said: Any) -> int:
    return said if type(said) is int and said > 0 else 0


def _is_whole(payload: bytes) -> bool:
    if payload.strip() == b"[DONE]":
        return True
    try:
        _event.decode(payload)
    except (ValueError, RecursionError):
        return False
    return True

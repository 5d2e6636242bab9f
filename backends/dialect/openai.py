"""The base of all engines that speak OpenAI's API; an adapter overrides only what differs.

Rules:
- The client's bytes go out as they came. Only the model's name is replaced, and usage is asked for in streams.
- A stream is watched, not rebuilt; see `stream.py`.
- An answer without a result, with an error in it, or without a finish reason is a failure, whatever its status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from backends.base import (
    Call,
    Engine,
    Failure,
    Headers,
    Health,
    ModelCard,
    Operation,
    Reply,
    Request,
    StreamDecoder,
)
from backends.dialect import choices, offered, passed, ranking, reasons, responses, rewrite, vectors
from backends.dialect.errors import garbled, read_failure
from backends.dialect.shapes import check_text, is_error
from backends.dialect.stream import EventStream
from backends.dialect.unstreamed import stream_of
from backends.dialect.usage import usage_of
from backends.facts import cards

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
    Operation.COUNT_TOKENS: "/v1/messages/count_tokens",
    Operation.TRANSCRIPTIONS: "/v1/audio/transcriptions",
    Operation.TRANSLATIONS: "/v1/audio/translations",
    Operation.SPEECH: "/v1/audio/speech",
    Operation.IMAGES: "/v1/images/generations",
    Operation.IMAGE_EDITS: "/v1/images/edits",
    Operation.IMAGE_VARIATIONS: "/v1/images/variations",
    Operation.REALTIME: "/v1/realtime",
}
"""The path of each operation, unless an engine's `paths` differs. They are the gateway's own paths too."""

FORMS = frozenset(
    {
        Operation.TRANSCRIPTIONS,
        Operation.TRANSLATIONS,
        Operation.IMAGE_EDITS,
        Operation.IMAGE_VARIATIONS,
    }
)
"""Operations whose request is a form (`multipart/form-data`) instead of JSON."""

ANTHROPIC = frozenset({Operation.MESSAGES, Operation.COUNT_TOKENS})
"""Operations of Anthropic's API."""
_VERSION = (b"anthropic-version", b"2023-06-01")
"""What Anthropic's API requires; some engines refuse a Message without it (LMDeploy 0.18)."""


_UPGRADE = ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))


class _Ending(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    object: Any = None
    model: msgspec.Raw = msgspec.Raw()
    choices: list[_Ending] | None = None
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer)


class OpenAICompatible(Engine):
    """What engines that speak OpenAI's API have in common."""

    stream_types: ClassVar[tuple[bytes, ...]] = (b"text/event-stream", b"audio/")
    paths: ClassVar[Mapping[Operation, str]] = {}
    """Paths of operations that differ from `PATHS`."""
    shortens: ClassVar[bool] = True
    """Whether the engine makes embeddings as short as `dimensions` says; where not, the gateway does it."""
    keeps: ClassVar[frozenset[str]] = frozenset()
    """Members of Cohere's rerank that the engine knows, besides those that all do."""

    may_be_openai: ClassVar[bool] = False
    """Whether it may be OpenAI's own service, which keeps conversations and prompts and runs tools; others do not."""
    runs_tools: ClassVar[frozenset[str]] = frozenset()
    """Types of tools of the Responses API, beside functions, that the engine may run itself."""

    def ignores(self, request: Request) -> bool:
        if self.may_be_openai:
            return False
        return responses.names_what_openai_keeps(request) or offered.others(request, self.runs_tools)

    def call(self, request: Request, model: str) -> Call:
        operation = request.operation
        path = self.paths.get(operation) or PATHS[operation]
        if operation is Operation.REALTIME:
            path += "?model=" + quote(model, safe="")
            return Call(path, method="GET", headers=(*_UPGRADE, *request.headers))
        if operation in FORMS:
            return Call(path, rewrite.form(request, model), content_type=request.content_type)
        if operation is Operation.EMBEDDINGS:
            request = vectors.asked(request, self.shortens)
        dropped: tuple[str, ...] = ()
        if operation is Operation.RERANK:
            request, dropped = ranking.asked(request, self.keeps)
        headers = _version(request.headers) if operation in ANTHROPIC else ()
        return Call(path, rewrite.request_body(request, model), headers=headers, dropped=dropped)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation in passed.OPERATIONS:
            return passed.reply(self, request, headers, body)
        try:
            check_text(body)
            answer = _answer.decode(body)
            if request.operation is Operation.EMBEDDINGS and answer.data:
                found = vectors.answered(request.body, body)
                if isinstance(found, Failure):
                    return found
                body = found
        except (ValueError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        if is_error(answer.error, answer.object):
            return self.failure(500, headers, body)
        if not (answer.data if request.operation is Operation.EMBEDDINGS else answer.choices):
            return garbled("the engine's reply has no result in it", body)
        failure, body = _ended(request, answer.choices or (), body)
        if failure is not None:
            return failure
        counted = usage_of(answer.usage, timings=answer.timings)
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
        """Return the request for the model list, the one cheap question every such server answers."""
        return self.models()

    def health_of(self, status: int, body: bytes) -> Health:
        # A server that demands other credentials for its model list is up nevertheless.
        return Health.READY if status < 500 else Health.DOWN

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        return cards.openai(body)


def _version(headers: Headers) -> Headers:
    """Return the headers of a Messages request, with the version of the API if the client named none."""
    return headers if any(name == _VERSION[0] for name, _ in headers) else (_VERSION, *headers)


def _ended(request: Request, endings: Sequence[_Ending], body: bytes) -> tuple[Failure | None, bytes]:
    """Return why a completion is not whole, or None, and the completion with OpenAI's finish reasons."""
    if endings and len(endings) < choices.wanted(request):
        return choices.too_few(), body
    odd = False
    for ending in endings:
        said = ending.finish_reason
        public = None if said is None or reasons.is_open(said) else reasons.public(said)
        if public is None:
            return reasons.broke_off(said), body
        odd = odd or public != said
    return None, reasons.rewritten(body) if odd else body

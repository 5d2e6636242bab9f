"""Which operation is at which path, and what its requests and answers look like: one table for the dispatch,
the reference page and the documents.

Rules:
- Every path is POST. The first path of an operation is its own; the others are where some engine's clients look for it.
- Shapes are for people and code generators; requests are checked by `gateway.api.body` and `gateway.api.form`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from backends.base import Operation
from gateway.api import schemas

FORM = "multipart/form-data"
JSON = "application/json"
EVENTS = "text/event-stream"


class Hot(NamedTuple):
    """One operation as clients see it."""

    operation: Operation
    paths: tuple[str, ...]
    title: str
    request: type[BaseModel]
    answer: type[BaseModel] | None
    """None where an answer is bytes."""
    takes: str = JSON
    gives: tuple[str, ...] = ()
    """Content types of answers, beside JSON."""


ENDPOINTS = (
    Hot(
        Operation.CHAT,
        ("/v1/chat/completions",),
        "Chat completion",
        schemas.ChatCompletionRequest,
        schemas.ChatCompletion,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.COMPLETIONS,
        ("/v1/completions",),
        "Completion",
        schemas.CompletionRequest,
        schemas.Completion,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.EMBEDDINGS,
        ("/v1/embeddings",),
        "Embeddings",
        schemas.EmbeddingRequest,
        schemas.EmbeddingList,
    ),
    Hot(
        Operation.RESPONSES,
        ("/v1/responses",),
        "Response (OpenAI's Responses API, of engines that speak it)",
        schemas.ResponsesRequest,
        schemas.ResponsesAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.MESSAGES,
        ("/v1/messages",),
        "Message (Anthropic's Messages API, of engines that speak it)",
        schemas.MessagesRequest,
        schemas.MessagesAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.RERANK,
        ("/v1/rerank", "/rerank", "/v2/rerank"),
        "Documents in the order of their relevance to a query",
        schemas.RerankRequest,
        schemas.RerankAnswer,
    ),
    Hot(
        Operation.SCORE,
        ("/v1/score", "/score"),
        "How well pairs of texts fit",
        schemas.ScoreRequest,
        schemas.ScoreAnswer,
    ),
    Hot(
        Operation.TOKENIZE,
        ("/tokenize", "/v1/tokenize"),
        "The tokens of a prompt or of messages",
        schemas.TokenizeRequest,
        schemas.TokenizeAnswer,
    ),
    Hot(
        Operation.DETOKENIZE,
        ("/detokenize", "/v1/detokenize"),
        "The text of tokens",
        schemas.DetokenizeRequest,
        schemas.DetokenizeAnswer,
    ),
    Hot(
        Operation.INFILL,
        ("/infill",),
        "Text between a prefix and a suffix",
        schemas.InfillRequest,
        schemas.InfillAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.TRANSCRIPTIONS,
        ("/v1/audio/transcriptions",),
        "What is said in a recording",
        schemas.TranscriptionRequest,
        schemas.TranscriptionAnswer,
        FORM,
        ("text/plain", EVENTS),
    ),
    Hot(
        Operation.TRANSLATIONS,
        ("/v1/audio/translations",),
        "What is said in a recording, in English",
        schemas.TranslationRequest,
        schemas.TranscriptionAnswer,
        FORM,
        ("text/plain", EVENTS),
    ),
    Hot(
        Operation.SPEECH,
        ("/v1/audio/speech",),
        "A text, spoken",
        schemas.SpeechRequest,
        None,
        gives=("audio/*", EVENTS),
    ),
    Hot(
        Operation.IMAGES,
        ("/v1/images/generations",),
        "Pictures from a text",
        schemas.ImagesRequest,
        schemas.ImagesAnswer,
        gives=(EVENTS,),
    ),
)

HOT: dict[str, Operation] = {path: endpoint.operation for endpoint in ENDPOINTS for path in endpoint.paths}
"""Every path that leads to an engine."""


def described(references: Any, errors: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI `paths` of all of them. `references` maps a shape, for validation, to its JSON Schema reference."""

    def content(kinds: tuple[str, ...], shape: type[BaseModel] | None) -> dict[str, Any]:
        """What is JSON or a form has its shape; events are text, everything else is bytes."""
        plain: dict[str, Any] = {}
        for kind in kinds:
            if kind in (JSON, FORM) and shape is not None:
                plain[kind] = {"schema": references[shape, "validation"]}
            else:
                binary: dict[str, Any] = {} if kind.startswith("text/") else {"format": "binary"}
                plain[kind] = {"schema": {"type": "string", **binary}}
        return plain

    pages: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        kinds = endpoint.gives if endpoint.answer is None else (JSON, *endpoint.gives)
        for number, path in enumerate(endpoint.paths):
            name = endpoint.operation.value + (f"_{number + 1}" if number else "")
            answer: dict[str, Any] = {"description": "The answer", "content": content(kinds, endpoint.answer)}
            pages[path] = {
                "post": {
                    "tags": ["inference"],
                    "summary": endpoint.title + (f" (as {endpoint.paths[0]})" if number else ""),
                    "operationId": name,
                    "security": [{"key": []}, {}],
                    "requestBody": {
                        "required": True,
                        "content": content((endpoint.takes,), endpoint.request),
                    },
                    "responses": {"200": answer, **errors},
                }
            }
    return pages


SHAPES: tuple[type[BaseModel], ...] = tuple(
    shape for endpoint in ENDPOINTS for shape in (endpoint.request, endpoint.answer) if shape is not None
)
"""Everything `described` refers to."""

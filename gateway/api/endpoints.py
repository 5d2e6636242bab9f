"""The table of operations with their paths, requests and answers, for routing, the reference page and the docs.

Rules:
- Every path takes POST only. The first path of an operation is the gateway's own; the others are aliases that the
  clients of some engine use.
- The schemas are documentation for people and code generators. Requests are validated by `backends.surfaces`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from backends.base import Operation
from gateway.api import gemini_schemas, ollama_schemas, responses_schemas, schemas

FORM = "multipart/form-data"
JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

SECURITY: list[dict[str, list[str]]] = [{"key": []}, {"x-api-key": []}, {}]
"""How a request says who asks, in OpenAPI's words; the last one is a gateway without keys."""


class Hot(NamedTuple):
    """One operation as the client sees it."""

    operation: Operation
    paths: tuple[str, ...]
    title: str
    request: type[BaseModel]
    answer: type[BaseModel] | None
    """The schema of a JSON answer; None if an answer is binary."""
    takes: str = JSON
    gives: tuple[str, ...] = ()
    """Content types of answers other than JSON."""


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
        "Response (OpenAI's Responses API)",
        schemas.ResponsesRequest,
        schemas.ResponsesAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.INPUT_TOKENS,
        ("/v1/responses/input_tokens",),
        "How many tokens the input of a response has",
        schemas.ResponsesRequest,
        responses_schemas.InputTokens,
    ),
    Hot(
        Operation.MESSAGES,
        ("/v1/messages",),
        "Message (Anthropic's Messages API)",
        schemas.MessagesRequest,
        schemas.MessagesAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.COUNT_TOKENS,
        ("/v1/messages/count_tokens",),
        "How many tokens the prompt of a message has",
        schemas.CountTokensRequest,
        schemas.CountTokensAnswer,
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
    Hot(
        Operation.IMAGE_EDITS,
        ("/v1/images/edits",),
        "Pictures from pictures and a text",
        schemas.ImageEditRequest,
        schemas.ImagesAnswer,
        FORM,
        (EVENTS,),
    ),
    Hot(
        Operation.IMAGE_VARIATIONS,
        ("/v1/images/variations",),
        "Pictures like another one",
        schemas.ImageVariationRequest,
        schemas.ImagesAnswer,
        FORM,
    ),
    Hot(
        Operation.OLLAMA_CHAT,
        ("/api/chat",),
        "Chat (Ollama's API)",
        ollama_schemas.ChatRequest,
        ollama_schemas.ChatAnswer,
        gives=(LINES,),
    ),
    Hot(
        Operation.OLLAMA_GENERATE,
        ("/api/generate",),
        "What follows on a prompt (Ollama's API)",
        ollama_schemas.GenerateRequest,
        ollama_schemas.GenerateAnswer,
        gives=(LINES,),
    ),
    Hot(
        Operation.OLLAMA_EMBED,
        ("/api/embed",),
        "Embeddings (Ollama's API)",
        ollama_schemas.EmbedRequest,
        ollama_schemas.EmbedAnswer,
    ),
    Hot(
        Operation.OLLAMA_EMBEDDINGS,
        ("/api/embeddings",),
        "One embedding (Ollama's older path)",
        ollama_schemas.EmbeddingsRequest,
        ollama_schemas.EmbeddingsAnswer,
    ),
    Hot(
        Operation.GEMINI_GENERATE,
        ("/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:streamGenerateContent"),
        "Content (Google's Gemini API)",
        gemini_schemas.GenerateRequest,
        gemini_schemas.GenerateAnswer,
        gives=(EVENTS,),
    ),
    Hot(
        Operation.GEMINI_COUNT_TOKENS,
        ("/v1beta/models/{model}:countTokens",),
        "How many tokens contents have (Google's API)",
        gemini_schemas.CountRequest,
        gemini_schemas.CountAnswer,
    ),
    Hot(
        Operation.GEMINI_EMBED,
        ("/v1beta/models/{model}:embedContent",),
        "One embedding (Google's API)",
        gemini_schemas.EmbedRequest,
        gemini_schemas.EmbedAnswer,
    ),
    Hot(
        Operation.GEMINI_BATCH_EMBED,
        ("/v1beta/models/{model}:batchEmbedContents",),
        "Embeddings (Google's API)",
        gemini_schemas.BatchEmbedRequest,
        gemini_schemas.BatchEmbedAnswer,
    ),
)

NAMED: dict[str, Operation] = {
    path: endpoint.operation for endpoint in ENDPOINTS for path in endpoint.paths if "{" in path
}
"""Every path that leads to an engine and names the model itself; `backends.surfaces.gemini.paths` reads it."""
HOT: dict[str, Operation] = {
    path: endpoint.operation for endpoint in ENDPOINTS for path in endpoint.paths if path not in NAMED
}
"""Every other path that leads to an engine."""


_MODEL: list[dict[str, Any]] = [
    {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
]


def described(references: Any, errors: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI `paths` of every operation.

    `references` maps a schema and the mode "validation" to its JSON Schema reference; `errors` are the error answers by
    status.
    """

    def content(kinds: tuple[str, ...], shape: type[BaseModel] | None) -> dict[str, Any]:
        """Describe JSON and forms by their schema, events as text, and everything else as binary."""
        plain: dict[str, Any] = {}
        for kind in kinds:
            if kind in (JSON, FORM) and shape is not None:
                plain[kind] = {"schema": references[shape, "validation"]}
            else:
                binary: dict[str, Any] = (
                    {} if kind.startswith("text/") or kind == LINES else {"format": "binary"}
                )
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
                    "security": SECURITY,
                    **({"parameters": _MODEL} if path in NAMED else {}),
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
"""Every schema that `described` refers to."""

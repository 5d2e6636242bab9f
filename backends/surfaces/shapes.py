"""The fields of requests in OpenAI's dialect that the gateway has to know, as msgspec structs.

Rules:
- The structs are separate from `bodies.py`, which uses them: mypyc compiles that module and cannot compile structs.
- A range is limited only if no engine could use the values beyond it, such as a billion answers.
- What one engine needs and another does without is optional here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import msgspec.inspect

from backends.base import Operation

Count = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
"""Engines store these in 32 bits. To llama.cpp -1 means no limit, and -2 until the context is full."""
Token = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""A token's number in the vocabulary."""
Choices = Annotated[int, msgspec.Meta(ge=1, le=128)]
"""OpenAI's limit. Engines reserve memory for each choice before they check anything else."""
Some = Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Choices | None = None
    max_tokens: Count | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None


class Chat(Common):
    messages: list[msgspec.Raw] | None = None
    max_completion_tokens: Count | None = None
    top_logprobs: int | None = None
    tools: list[msgspec.Raw] | None = None


class Completion(Common):
    best_of: Choices | None = None


class Embedding(msgspec.Struct):
    model: str
    messages: Some | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None


class Whole(msgspec.Struct):
    """Requests of operations that are not streamed; the base of all that need only `model`."""

    model: str


class Streamable(Whole):
    stream: bool | None = None


class Rerank(Whole, kw_only=True):
    query: str | dict[str, msgspec.Raw]
    documents: Some | dict[str, msgspec.Raw] | None = None
    texts: Some | None = None
    """TEI's name for them."""
    return_documents: bool | None = None
    return_text: bool | None = None
    top_n: Count | None = None


class Score(Whole):
    """Two texts, or one of the other pairs of members in which engines take what is to be compared."""


class Tokenize(Whole):
    prompt: str | None = None
    messages: Some | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class Detokenize(Whole, kw_only=True):
    tokens: list[Token]


class Infill(Streamable, kw_only=True):
    input_prefix: str
    input_suffix: str
    n_predict: int | None = None


class Responses(Streamable, kw_only=True):
    input: str | Some | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None


class InputTokens(Whole, kw_only=True):
    input: str | Some | None = None


class Messages(Streamable, kw_only=True):
    messages: Some
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None


class CountTokens(Whole, kw_only=True):
    messages: Some


class Lines(Streamable):
    """Requests of Ollama's API that are answered as a stream unless they say otherwise."""


class OllamaChat(Lines):
    messages: list[msgspec.Raw] | None = None
    tools: list[msgspec.Raw] | None = None


class OllamaGenerate(Lines):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None


class OllamaEmbed(Whole):
    dimensions: int | None = None


class OllamaEmbeddings(Whole):
    prompt: str | None = None


class GenerateContent(Streamable):
    """Requests of Google's API, with what their paths and queries say as members."""

    contents: Some | dict[str, msgspec.Raw] | None = None
    alt: str | None = None


class CountContent(Whole):
    contents: Some | dict[str, msgspec.Raw] | None = None


class EmbedContent(Whole):
    content: str | dict[str, msgspec.Raw] | None = None


class BatchEmbedContents(Whole, kw_only=True):
    requests: Some


class Speech(Whole, kw_only=True):
    input: str
    response_format: str | None = None
    stream_format: str | None = None
    speed: float | None = None


class Images(Streamable, kw_only=True):
    prompt: str
    n: Choices | None = None


SHAPES: Mapping[Operation, type[msgspec.Struct]] = {
    Operation.CHAT: Chat,
    Operation.COMPLETIONS: Completion,
    Operation.EMBEDDINGS: Embedding,
    Operation.RERANK: Rerank,
    Operation.SCORE: Score,
    Operation.TOKENIZE: Tokenize,
    Operation.DETOKENIZE: Detokenize,
    Operation.INFILL: Infill,
    Operation.RESPONSES: Responses,
    Operation.INPUT_TOKENS: InputTokens,
    Operation.MESSAGES: Messages,
    Operation.COUNT_TOKENS: CountTokens,
    Operation.SPEECH: Speech,
    Operation.IMAGES: Images,
    Operation.OLLAMA_CHAT: OllamaChat,
    Operation.OLLAMA_GENERATE: OllamaGenerate,
    Operation.OLLAMA_EMBED: OllamaEmbed,
    Operation.OLLAMA_EMBEDDINGS: OllamaEmbeddings,
    Operation.GEMINI_GENERATE: GenerateContent,
    Operation.GEMINI_COUNT_TOKENS: CountContent,
    Operation.GEMINI_EMBED: EmbedContent,
    Operation.GEMINI_BATCH_EMBED: BatchEmbedContents,
}

KNOWN: Mapping[Operation, frozenset[str]] = {
    operation: frozenset(shape.__struct_fields__) for operation, shape in SHAPES.items()
}
"""The members that the gateway knows."""


def _is_whole(kind: msgspec.inspect.Type) -> bool:
    options = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return any(isinstance(option, msgspec.inspect.IntType) for option in options)


def _whole(shape: type[msgspec.Struct]) -> frozenset[str]:
    found = msgspec.inspect.type_info(shape)
    assert isinstance(found, msgspec.inspect.StructType)
    return frozenset(field.name for field in found.fields if _is_whole(field.type))


WHOLE: Mapping[Operation, frozenset[str]] = {operation: _whole(shape) for operation, shape in SHAPES.items()}
"""Those of them that are whole numbers."""

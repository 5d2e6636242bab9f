"""What a client may ask of an engine, in whichever API.

Rules:
- The names are those of the metrics, of the config and of the docs: one that was published stays.
"""

from __future__ import annotations

import enum


class Operation(enum.StrEnum):
    """What a client may ask of an engine."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    """Documents ordered by relevance to a query (Jina's and Cohere's form)."""
    SCORE = "score"
    """How well pairs of texts match (vLLM's form)."""
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    INFILL = "infill"
    """The text between a prefix and a suffix (llama.cpp's form)."""
    RESPONSES = "responses"
    """OpenAI's Responses API, for engines that speak it themselves."""
    INPUT_TOKENS = "input_tokens"
    """The tokens of a response's input (OpenAI's `/v1/responses/input_tokens`)."""
    MESSAGES = "messages"
    """Anthropic's Messages API, for engines that speak it themselves."""
    COUNT_TOKENS = "count_tokens"
    """The tokens of a message's prompt (Anthropic's form), for engines that speak that API."""
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"
    SPEECH = "speech"
    IMAGES = "images"
    IMAGE_EDITS = "image_edits"
    """Pictures made of pictures and a text."""
    IMAGE_VARIATIONS = "image_variations"
    REALTIME = "realtime"
    """OpenAI's Realtime API over a WebSocket."""
    OLLAMA_CHAT = "ollama_chat"
    """Ollama's `/api/chat`."""
    OLLAMA_GENERATE = "ollama_generate"
    """Ollama's `/api/generate`."""
    OLLAMA_EMBED = "ollama_embed"
    """Ollama's `/api/embed`."""
    OLLAMA_EMBEDDINGS = "ollama_embeddings"
    """Ollama's older `/api/embeddings`."""
    GEMINI_GENERATE = "gemini_generate"
    """Google's `generateContent` and `streamGenerateContent`."""
    GEMINI_COUNT_TOKENS = "gemini_count_tokens"
    """Google's `countTokens`."""
    GEMINI_EMBED = "gemini_embed"
    """Google's `embedContent`."""
    GEMINI_BATCH_EMBED = "gemini_batch_embed"
    """Google's `batchEmbedContents`."""


OLLAMA = frozenset(
    (Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE, Operation.OLLAMA_EMBED, Operation.OLLAMA_EMBEDDINGS)
)
"""The operations of Ollama's API, which every engine is asked for in OpenAI's: none has them itself."""
GEMINI = frozenset(
    (
        *(Operation.GEMINI_GENERATE, Operation.GEMINI_COUNT_TOKENS),
        *(Operation.GEMINI_EMBED, Operation.GEMINI_BATCH_EMBED),
    )
)
"""The operations of Google's Gemini API, of which the same is true."""
NATIVE = frozenset(Operation) - OLLAMA - GEMINI - {Operation.INPUT_TOKENS}
"""The operations that an engine may have itself."""

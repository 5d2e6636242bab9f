"""Answers and events as the types of OpenAI's, Anthropic's and Ollama's own SDKs for Python read them, strictly.

Rules:
- The SDKs build their objects without looking; typed clients of other languages do look. Their types say what they
  expect, so every answer and every event of every engine is held against them, without any conversion of values.
- Members that an engine adds are allowed, as they are for every client.
- Where the types contradict OpenAI's own answers, the answers count: a piece of a streamed completion has no finish
  reason before the last one, though the type wants one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from ollama import ChatResponse, EmbeddingsResponse, EmbedResponse, GenerateResponse
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    ImageEditStreamEvent,
    ImageGenStreamEvent,
    ImagesResponse,
)
from openai.types.audio import Transcription, TranscriptionStreamEvent, Translation
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.realtime import RealtimeServerEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

TYPES: Mapping[str, TypeAdapter[Any]] = {
    "chat.completion": TypeAdapter(ChatCompletion),
    "chat.completion.chunk": TypeAdapter(ChatCompletionChunk),
    "text_completion": TypeAdapter(Completion),
    "list": TypeAdapter(CreateEmbeddingResponse),
    "response": TypeAdapter(Response),
}
"""The type of an answer or event by its `object`."""


def fits(value: dict[str, Any]) -> None:
    """Hold an answer, or an event of a chat or a completion, against its type; fails the test where it does not fit."""
    if value["object"] == "text_completion":
        choices = [
            choice | {"finish_reason": choice.get("finish_reason") or "stop"} for choice in value["choices"]
        ]
        value = value | {"choices": choices}
    TYPES[value["object"]].validate_json(msgspec.json.encode(value), strict=True)


def _fits(kind: Any) -> Callable[[dict[str, Any]], None]:
    """Return what holds a value against a type, and fails the test where it does not fit."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def fits(value: dict[str, Any]) -> None:
        adapter.validate_json(msgspec.json.encode(value), strict=True)

    return fits


fits_response_event = _fits(ResponseStreamEvent)
fits_message = _fits(Message)
fits_message_event = _fits(RawMessageStreamEvent)
fits_message_count = _fits(MessageTokensCount)
fits_ollama_chat = _fits(ChatResponse)
fits_ollama_generate = _fits(GenerateResponse)
fits_ollama_embed = _fits(EmbedResponse)
fits_ollama_embeddings = _fits(EmbeddingsResponse)
fits_transcription = _fits(Transcription)
fits_transcription_event = _fits(TranscriptionStreamEvent)
fits_translation = _fits(Translation)
fits_images = _fits(ImagesResponse)
fits_image_event = _fits(ImageGenStreamEvent)
fits_image_edit_event = _fits(ImageEditStreamEvent)
fits_realtime_event = _fits(RealtimeServerEvent)

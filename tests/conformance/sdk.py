"""Answers and events as the types of OpenAI's own SDK for Python read them, strictly.

Rules:
- The SDK itself builds its objects without looking; typed clients of other languages do look. Its types say what they
  expect, so every answer and every event of every engine is held against them, without any conversion of values.
- Members that an engine adds are allowed, as they are for every client.
- Where the types contradict OpenAI's own answers, the answers count: a piece of a streamed completion has no finish
  reason before the last one, though the type wants one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
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
_RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def fits(value: dict[str, Any]) -> None:
    """Hold an answer, or an event of a chat or a completion, against its type; fails the test where it does not fit."""
    if value["object"] == "text_completion":
        choices = [
            choice | {"finish_reason": choice.get("finish_reason") or "stop"} for choice in value["choices"]
        ]
        value = value | {"choices": choices}
    TYPES[value["object"]].validate_json(msgspec.json.encode(value), strict=True)


def fits_response_event(value: dict[str, Any]) -> None:
    """Hold an event of the Responses API against its type; fails the test where it does not fit."""
    _RESPONSE_EVENT.validate_json(msgspec.json.encode(value), strict=True)

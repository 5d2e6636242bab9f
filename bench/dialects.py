"""The client dialects whose streams are measured: the same question in each, and how its answer's pieces are known.

Rules:
- Every dialect is asked for the same text through the same model, whose engine speaks OpenAI's chat: there the bytes
  pass, all others are translated.
- A piece is one that holds text of the model, so that its number is the same in each dialect, whatever stands around.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.load import Question


@dataclass(frozen=True)
class Dialect:
    """How one dialect asks for a stream. `{model}` in the path is the model's name."""

    path: str
    body: Mapping[str, Any]
    """The request, but for its model: PROMPT and TOKENS stand for the prompt and the most tokens of the answer."""
    piece: bytes
    """What is in each event with text, and in no other bytes."""
    done: bytes
    """What is in the last event of an answer that is complete."""


REACH: Final = 2048
"""Bytes that the last event of an answer may have: that of Responses has the whole text."""
PROMPT: Final = "PROMPT"
TOKENS: Final = "TOKENS"
_SAID: Final = [{"role": "user", "content": PROMPT}]
PASSED: Final = "chat"
"""The dialect whose bytes pass."""
DIALECTS: Final[Mapping[str, Dialect]] = {
    PASSED: Dialect(
        "/v1/chat/completions",
        {"messages": _SAID, "max_tokens": TOKENS, "stream": True},
        b'"delta":{"content"',
        b"[DONE]",
    ),
    "messages": Dialect(
        "/v1/messages",
        {"messages": _SAID, "max_tokens": TOKENS, "stream": True},
        b'"text_delta"',
        b'"message_stop"',
    ),
    "responses": Dialect(
        "/v1/responses",
        {"input": PROMPT, "max_output_tokens": TOKENS, "stream": True, "store": False},
        b'"response.output_text.delta"',
        b'"response.completed"',
    ),
    "ollama": Dialect(
        "/api/chat", {"messages": _SAID, "options": {"num_predict": TOKENS}}, b'"done":false', b'"done":true'
    ),
    "gemini": Dialect(
        "/v1beta/models/{model}:streamGenerateContent?alt=sse",
        {"contents": [{"parts": [{"text": PROMPT}]}], "generationConfig": {"maxOutputTokens": TOKENS}},
        b'"parts":[{"text"',
        b'"usageMetadata"',
    ),
}


def question(dialect: Dialect, port: int, model: str, key: str, *, tokens: int, gap_ms: int) -> Question:
    """Return the question for a stream of so many tokens, `gap_ms` milliseconds apart."""
    text = json.dumps({"model": model, **dialect.body}, separators=(",", ":"))
    prompt = f"gap-ms={gap_ms} ".ljust(200, "x")
    body = text.replace(f'"{TOKENS}"', str(tokens)).replace(PROMPT, prompt).encode()
    path = dialect.path.replace("{model}", model)
    return Question.to(
        port, path, key, body, stream=True, event=dialect.piece, done=dialect.done, reach=REACH
    )

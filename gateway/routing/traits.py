"""What the config says that a model can do, and what a request would need.

Rules:
- Only what the config says is held against a model. What it leaves open is for the engine to judge.
- A prompt is found too long only where that is certain: by a fourth of the usual estimate, sixteen bytes to a token.
  English has four to five, other scripts fewer, indented code up to eight; only a prompt of hardly anything but long
  runs of one sign has more. What is nearer is the engine's to judge.
- Prompts that an engine may cut, and lists of texts that are read one by one, are not measured.
"""

from __future__ import annotations

from typing import Final

from backends.base import Operation
from gateway.asked import Asked

TOOLS: Final = "tools"
VISION: Final = "vision"
EMBEDDINGS: Final = "embeddings"
CONTEXT: Final = "context"

_DENSEST: Final = 4
"""How many times fewer tokens than estimated a prompt can have."""
_MEASURED: Final = frozenset(
    (
        *(Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES),
        Operation.GEMINI_GENERATE,
    )
)

_EMBEDDED: Final = frozenset(
    (
        *(Operation.EMBEDDINGS, Operation.OLLAMA_EMBED, Operation.OLLAMA_EMBEDDINGS),
        *(Operation.GEMINI_EMBED, Operation.GEMINI_BATCH_EMBED),
    )
)


class Traits:
    """What one model can do. None: that is not known."""

    __slots__ = ("context", "embeddings", "reasoning", "tools", "vision")

    def __init__(
        self,
        context: int | None = None,
        tools: bool | None = None,
        vision: bool | None = None,
        embeddings: bool | None = None,
        reasoning: bool | None = None,
    ) -> None:
        """`context` is the most tokens of prompt and answer together."""
        self.context: int | None = context
        self.tools: bool | None = tools
        self.vision: bool | None = vision
        self.embeddings: bool | None = embeddings
        self.reasoning: bool | None = reasoning

    def lacks(self, asked: Asked) -> str:
        """Return what a request needs and the model does not have; empty where there is no such thing."""
        if self.embeddings is False and asked.request.operation in _EMBEDDED:
            return EMBEDDINGS
        if self.tools is False and asked.has_tools:
            return TOOLS
        if self.vision is False and asked.has_images:
            return VISION
        if self.context is not None and least_tokens(asked) > self.context:
            return CONTEXT
        return ""

    def has(self, what: str) -> bool:
        """Tell whether the config says that the model can do this."""
        if what == TOOLS:
            return self.tools is True
        return self.vision is True if what == VISION else self.embeddings is True and what == EMBEDDINGS


def least_tokens(asked: Asked) -> int:
    """Return how many tokens the prompt has at least; 0 where it is not measured."""
    if asked.request.operation not in _MEASURED:
        return 0
    members = asked.members
    if "truncate_prompt_tokens" in members or asked.text("truncation") == "auto":
        return 0
    prompt = members.get("prompt")
    if prompt is not None and not bytes(prompt).startswith(b'"'):
        return 0
    return asked.prompt_tokens // _DENSEST

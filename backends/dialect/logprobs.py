"""Log probabilities of tokens in the form of completions, from the form of chats.

Rules:
- Both are OpenAI's. The form of completions has parallel lists, and where each token begins in the text.
- A token whose alternatives are not told is its own only alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class Token(msgspec.Struct):
    """One token of an answer as chats tell it."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Token] | None = None


def of_text(tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """Return the form of completions; `offset` is the number of characters of the text before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {other.token: other.logprob for other in token.top_logprobs or (token,)} for token in tokens
        ],
        "text_offset": offsets,
    }

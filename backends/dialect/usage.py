"""Token counts as engines report them: read from any dialect, written in OpenAI's.

Rules:
- A count that cannot be read counts as zero; it never fails the answer it came with.
- Where nothing was counted there is no usage, which is not the same as zero tokens.
"""

from __future__ import annotations

from typing import Any

from backends.base import Usage

_CHAT = ("prompt_tokens", "completion_tokens")
_ANY_API = ("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens", "total_tokens")
_MOST_DIGITS = 18


def count(value: object) -> int:
    """Return a number of tokens; 0 for anything that is not one."""
    return value if type(value) is int and value > 0 else 0


def usage_of(said: object, any_api: bool = False) -> Usage | None:
    """Return the tokens in a `usage` object; None without any count in it.

    By default only the names of chat completions, completions and embeddings are read. With `any_api` also those of
    OpenAI's newer APIs and of Anthropic's, whose input tokens do not include cached ones; a total alone, which is what
    rerankers report, counts as input. Chat does without: an engine may send both kinds of names there, and the cached
    tokens would be counted twice.
    """
    if not isinstance(said, dict):
        return None
    names = _ANY_API if any_api else _CHAT
    if not any(type(said.get(name)) is int for name in names):
        return None
    if not any_api:
        return Usage(
            count(said.get("prompt_tokens")), count(said.get("completion_tokens")), _cached(said, "prompt")
        )
    spent = count(said.get("input_tokens", said.get("prompt_tokens")))
    given = count(said.get("output_tokens", said.get("completion_tokens")))
    if not (spent or given):
        spent = count(said.get("total_tokens"))
    cached = _cached(said, "input" if "input_tokens_details" in said else "prompt")
    beside = count(said.get("cache_read_input_tokens"))
    return Usage(spent + beside + count(said.get("cache_creation_input_tokens")), given, cached or beside)


def usage_of_digits(read: bytes, made: bytes) -> Usage | None:
    """Return the tokens of two counts in JSON, as llama.cpp reports them outside of `usage`; None if both are zero."""
    counts = [int(value) if value.isdigit() else 0 for value in (read[:_MOST_DIGITS], made[:_MOST_DIGITS])]
    return Usage(*counts) if any(counts) else None


def openai_usage(usage: Usage) -> dict[str, Any]:
    """Return the `usage` object of a chat completion or a completion."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }


def _cached(said: dict[str, Any], kind: str) -> int:
    """Return how many of the prompt's tokens came from a cache."""
    details = said.get(f"{kind}_tokens_details")
    return count(details.get("cached_tokens")) if isinstance(details, dict) else 0

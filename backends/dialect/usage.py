"""Token counts as engines report them: read from any dialect, written in OpenAI's.

Rules:
- A count that cannot be read counts as not told; it never fails the answer it came with.
- Where nothing was counted there is no usage, which is not the same as zero tokens.
- A detail means the same whoever tells it (`backends.base.Usage`): what is cached or written to a cache is part of the
  prompt, reasoning part of the answer. Anthropic's API counts the first two beside the prompt; they are added to it.
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


def told(value: object) -> int | None:
    """Return a number of tokens that may be zero; None for anything that is not one."""
    return value if type(value) is int and value >= 0 else None


def usage_of(said: object, any_api: bool = False, timings: object = None) -> Usage | None:
    """Return the tokens in a `usage` object; None without any count in it.

    By default only the names of chat completions, completions and embeddings are read. With `any_api` also those of
    OpenAI's newer APIs and of Anthropic's, whose input tokens do not include cached ones; a total alone, which is what
    rerankers report, counts as input. Chat does without: an engine may send both kinds of names there, and the cached
    tokens would be counted twice. `timings` is what llama.cpp tells beside it.
    """
    if not isinstance(said, dict):
        return None
    names = _ANY_API if any_api else _CHAT
    if not any(type(said.get(name)) is int for name in names):
        return None
    if not any_api:
        spent, given = count(said.get("prompt_tokens")), count(said.get("completion_tokens"))
        return _detailed(spent, given, said, timings)
    spent = count(said.get("input_tokens", said.get("prompt_tokens")))
    given = count(said.get("output_tokens", said.get("completion_tokens")))
    if not (spent or given):
        spent = count(said.get("total_tokens"))
    beside = count(said.get("cache_read_input_tokens")) + count(said.get("cache_creation_input_tokens"))
    return _detailed(spent + beside, given, said, timings)


def _detailed(spent: int, given: int, said: dict[str, Any], timings: object) -> Usage:
    """Return counts with the details that an engine tells of them, under whichever names."""
    read = _object(said, "prompt_tokens_details", "input_tokens_details")
    made = _object(said, "completion_tokens_details", "output_tokens_details")
    timed = timings if isinstance(timings, dict) else {}
    cached = _first(read.get("cached_tokens"), said.get("cache_read_input_tokens"))
    accepted, rejected = made.get("accepted_prediction_tokens"), told(made.get("rejected_prediction_tokens"))
    right = told(accepted)
    return Usage(
        spent,
        given,
        cached if cached is not None else _first(said.get("prompt_cache_hit_tokens"), timed.get("cache_n")),
        _first(said.get("cache_creation_input_tokens"), read.get("created_cache_tokens")),
        _first(made.get("reasoning_tokens"), said.get("reasoning_tokens")),
        told(timed.get("draft_n")) if right is None else right + (rejected or 0),
        told(timed.get("draft_n_accepted")) if right is None else right,
    )


def _object(said: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the first member of these names that is an object; an empty one if none is."""
    for name in names:
        found = said.get(name)
        if isinstance(found, dict):
            return found
    return {}


def _first(one: object, other: object) -> int | None:
    """Return the first of two numbers of tokens that was told."""
    found = told(one)
    return told(other) if found is None else found


def usage_of_digits(read: bytes, made: bytes) -> Usage | None:
    """Return the tokens of two counts in JSON, as llama.cpp reports them outside of `usage`; None if both are zero."""
    counts = [int(value) if value.isdigit() else 0 for value in (read[:_MOST_DIGITS], made[:_MOST_DIGITS])]
    return Usage(*counts) if any(counts) else None


def merged(old: Usage | None, new: Usage) -> Usage:
    """Return what two counts of one answer say together; the later one is right where both say something."""
    if old is None:
        return new
    return Usage(
        new.input or old.input,
        new.output or old.output,
        old.cached if new.cached is None else new.cached,
        old.cache_write if new.cache_write is None else new.cache_write,
        old.reasoning if new.reasoning is None else new.reasoning,
        old.drafted if new.drafted is None else new.drafted,
        old.accepted if new.accepted is None else new.accepted,
    )


def openai_usage(usage: Usage) -> dict[str, Any]:
    """Return the `usage` object of a chat completion or a completion."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }

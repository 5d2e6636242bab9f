"""Finish reasons: which of OpenAI's five an engine's word means, or that the engine broke off its answer.

Rules:
- A client gets one of the five. SDKs with fixed types lose the whole answer over any other word.
- A word that stands for no known end is an engine breaking off: `abort`, `cancelled`, `error`, and what is not known.
- No reason, an empty one and the text "null" are the same: a streamed choice goes on, a whole answer was broken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from backends.base import Failure, Kind
from backends.dialect import rewrite

BROKE_OFF: Final = "the engine broke off its answer because of an error of its own"

_OPEN: Final = frozenset({"", "null", "none"})
_WORDS: Mapping[str, tuple[str, ...]] = {
    "stop": (
        *("eos", "eos_token", "eog", "stop_token", "stop_str", "stop_sequence", "end_turn"),
        *("end", "done", "complete", "completed", "finish", "finished"),
    ),
    # `repetition`: vLLM 0.32 ends an answer that repeats itself, where the client asked it to.
    "length": (
        *("max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length", "token_limit"),
        *("limit", "model_context_window_exceeded", "repetition"),
    ),
    "tool_calls": ("tool_call", "tool_use"),
    "content_filter": ("refusal", "safety", "sensitive", "recitation", "blocklist", "prohibited_content"),
    "function_call": (),
}
"""OpenAI's five reasons, and other words for each, of engines and of other APIs."""
_PUBLIC: Mapping[str, str] = {word: reason for reason, words in _WORDS.items() for word in (reason, *words)}

_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_reason = msgspec.json.Decoder(str | None)


def is_open(said: object) -> bool:
    """Return whether a finish reason says that its choice has not ended."""
    return not isinstance(said, str) or said.lower() in _OPEN


def public(said: str) -> str | None:
    """Return OpenAI's word for a finish reason that is not open; None where the engine broke off."""
    return said if said in _WORDS else _PUBLIC.get(said.lower())


def broke_off(said: str | None) -> Failure:
    """Return the failure of an answer that ended with this reason, or without one."""
    facts = "no finish reason" if said is None else "an unknown finish reason"
    return Failure(Kind.FAILED, BROKE_OFF, facts=facts, unexplained=True)


def rewritten(answer: bytes) -> bytes:
    """Return a completion, or an event of one, whose finish reasons are all known, with OpenAI's words for them."""
    members = rewrite.members(answer)
    choices = []
    for choice in _choices.decode(members["choices"]):
        said = _reason.decode(choice.get("finish_reason", b"null"))
        reason = None if said is None or is_open(said) else public(said)
        choices.append({**choice, "finish_reason": msgspec.Raw(msgspec.json.encode(reason))})
    return rewrite.joined({**members, "choices": msgspec.json.encode(choices)})

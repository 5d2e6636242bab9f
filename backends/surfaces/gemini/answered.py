"""A chat completion as an answer of Google's API: its candidates, why each ended, and the counts.

Rules:
- The words for the end of an answer and the counts are the same for whole answers and streams: both are made here.
- Google's `candidatesTokenCount` leaves out what the model thought, a chat's `completion_tokens` does not.
- What the model thinks is told to those who ask for it (`includeThoughts`), as Google does.
- A candidate that says nothing has one empty text: clients look at its parts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from backends.base import Request, Usage
from backends.dialect import partial
from backends.surfaces import chat
from backends.surfaces.places import Members

_REASONS: Final[Mapping[str, str]] = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}


def whole(request: Request, answer: bytes, usage: Usage, thoughts: bool) -> bytes:
    """Return a whole answer. Raise ValueError if it cannot be read."""
    said = chat.decode(answer)
    found = [_candidate(choice, thoughts) for choice in said.choices or ()]
    if not found:
        raise ValueError("the answer has no choice")
    made = {"candidates": found, "usageMetadata": counts(usage)}
    return msgspec.json.encode(made | about(request, identity(said.id)))


def _candidate(choice: chat.Choice, thoughts: bool) -> Members:
    message = choice.message
    if message is None:
        raise ValueError("a choice has no message")
    parts = [thought(message.thought)] if message.thought and thoughts else []
    parts += [{"text": message.text}] if message.text else []
    for name, given in chat.named(message.tool_calls):
        parts.append(call(given.id, name, chat.arguments_of(given)))
    return candidate(choice.index or 0, parts, ending(choice.finish_reason)) | probabilities(choice)


def candidate(index: int, parts: list[Members], reason: str) -> Members:
    """Return a candidate that has ended, or the last piece of one."""
    content = {"parts": parts or [{"text": ""}], "role": "model"}
    return {"content": content, "finishReason": reason, "index": index}


def about(request: Request, identity: str) -> Members:
    """Return what each answer, and each piece of one, says of itself."""
    return {"modelVersion": request.model, "responseId": identity}


def identity(said: Any) -> str:
    """Return the id of an answer: the engine's, where it tells one."""
    return said if isinstance(said, str) and said else secrets.token_hex(12)


def thought(said: str, mark: str = "") -> Members:
    """Return the part for what the model thinks; with `mark` as its signature, if any."""
    made: Members = {"text": said, "thought": True}
    return made | {"thoughtSignature": mark} if mark else made


def call(known: str | None, name: str, arguments: str) -> Members:
    """Return the part for a call of a function; its arguments are an object."""
    given = partial.readable(arguments)
    made: Members = {"name": name, "args": given if isinstance(given, dict) else {}}
    return {"functionCall": {"id": known} | made if known else made}


def ending(reason: str | None) -> str:
    """Return why a candidate ended. A call is an end of the model's own, as `stop` is."""
    return _REASONS.get(reason or "", "STOP")


def counts(usage: Usage) -> Members:
    """Return the counts; what the engine did not tell is left out, but for those that every answer has."""
    made: Members = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": max(0, usage.output - (usage.reasoning or 0)),
        "totalTokenCount": usage.input + usage.output,
    }
    if usage.cached:
        made["cachedContentTokenCount"] = usage.cached
    if usage.reasoning:
        made["thoughtsTokenCount"] = usage.reasoning
    return made


def probabilities(choice: chat.Choice) -> Members:
    """Return the log probabilities of a choice's tokens as members of its candidate; none where there are none.

    Raise ValueError if they cannot be read.
    """
    found = choice.probabilities
    if not found:
        return {}
    chosen = [_token(one) for one in found]
    best = [{"candidates": [_token(other) for other in one.get("top_logprobs") or ()]} for one in found]
    average = sum([one["logProbability"] for one in chosen]) / len(chosen)
    return {
        "avgLogprobs": average,
        "logprobsResult": {"topCandidates": best, "chosenCandidates": chosen},
    }


def _token(said: Members) -> Members:
    return {"token": said["token"], "logProbability": float(said["logprob"])}

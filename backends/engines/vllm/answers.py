"""Read vLLM's errors: what they are about, and in words that a client can use.

Facts are those of vLLM 0.32; recordings of each error are in `tests/recordings/vllm`.

Rules:
- What is wrong with a body is told as Python's list of every schema that does not fit. The client gets the first line
  that is about a value, and the member it is about.
- An error in a Messages stream is an error of vLLM's own check of it: the status is in that check's text, the words are
  cut off. Asked again as a whole, the engine says them.
- A dead engine says so. Any other 500 is about the request, whatever it is: only another backend's success speaks
  against this one then.
- An answer to `max_tokens must be at least 1` is about the prompt, which has left no room: a client's own zero is
  refused before (`asked.py`).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

from backends.base import Failure, Headers, Kind
from backends.dialect.errors import message_of, read_failure

_COMPLAINT: Final = re.compile(
    r"'type': '(?P<type>\w+)', 'loc': '(?P<loc>[^']*)', 'msg': (?:'(?P<plain>[^']*)'|\"(?P<quoted>[^\"]*)\")"
)
"""One line of what is wrong with a body."""
_CHECKED: Final = re.compile(r"validation errors? for (\w+)\n(\S+)\n +(.+?) \[type=")
"""The beginning of an error of pydantic's, for a value that vLLM made itself."""
_STATUS: Final = re.compile(r"'code': ([45]\d\d)\}")
_OF_A_RESPONSE: Final = re.compile(r"Response with id .* not found")
_MEMBER: Final = re.compile(r"[a-z_][a-z0-9_]*|\d+")
_PARAMETER: Final = re.compile(r" ?\(parameter=\w+(?:, value=.*)?\)$", re.DOTALL)
_DEAD: Final = ("EngineCore encountered", "EngineDeadError", "Engine core", "engine is dead")
_TYPES: Final = frozenset({"str", "int", "float", "bool", "list", "dict"})
"""What stands in a place beside the names of members: the type that was tried."""

_NO_RESPONSE: Final[dict[str, Any]] = {
    "kind": Kind.UNSUPPORTED,
    "message": "the engine does not know the response that 'previous_response_id' names",
    "code": "previous_response_not_found",
    "param": "previous_response_id",
}
"""A response that another backend may have."""
_SAYS: Final[tuple[tuple[re.Pattern[str], Kind, str], ...]] = (
    (
        re.compile(r"max_tokens must be at least 1, got 0"),
        Kind.CONTEXT,
        "the prompt leaves no room for an answer in the model's context",
    ),
    (re.compile(r"is not a multimodal model"), Kind.UNSUPPORTED, "the model reads text only"),
    (
        re.compile(r"does not support Matryoshka"),
        Kind.UNSUPPORTED,
        "'dimensions': the model's vectors have one length",
    ),
    (
        re.compile(r"suffix is only supported"),
        Kind.UNSUPPORTED,
        "'suffix': the model is not made for text between two others",
    ),
    (
        re.compile(r"thinking_token_budget is set but"),
        Kind.UNSUPPORTED,
        "a budget for thinking needs a 'reasoning_parser' at the engine",
    ),
)
"""Errors with status 400 that mean something else, or name the engine's own model."""


def failure(status: int, headers: Headers, body: bytes) -> Failure:
    """Interpret an error, also one in a stream, whose status is given as 500."""
    found = read_failure(status, headers, body)
    words = message_of(body)
    checked = _CHECKED.search(words)
    if checked is not None:
        return _of_its_own(found, words, checked)
    if found.status is not None and found.status >= 500:
        lives = found.kind is Kind.FAILED and not any(mark in words for mark in _DEAD)
        return dataclasses.replace(found, engine_lives=lives)
    if found.status == 404 and _OF_A_RESPONSE.match(words):
        return dataclasses.replace(found, **_NO_RESPONSE)
    complaints = list(_COMPLAINT.finditer(words))
    if complaints:
        return _of_a_body(found, complaints)
    for pattern, kind, message in _SAYS:
        if pattern.search(words):
            return dataclasses.replace(found, kind=kind, message=message)
    return dataclasses.replace(found, message=_PARAMETER.sub("", found.message))


def _of_a_body(found: Failure, complaints: list[re.Match[str]]) -> Failure:
    """Return the complaint about a body that says most: about a value before one about a type or a missing member."""
    best = min(complaints, key=_rank)
    path = [part for part in best["loc"].removeprefix("body").split(".") if _is_member(part)]
    words = (best["plain"] or best["quoted"] or "it is not valid").removeprefix("Value error, ")
    place = ".".join(path)
    return dataclasses.replace(found, message=f"{place}: {words}" if place else words, param=place or None)


def _is_member(part: str) -> bool:
    """Return whether a part of a place is a name or a number of the body, not one of vLLM's classes and types."""
    return part not in _TYPES and _MEMBER.fullmatch(part) is not None


def _rank(complaint: re.Match[str]) -> int:
    if complaint["loc"].endswith((".role", ".type")):
        return 2
    return int(complaint["type"] == "missing")


def _of_its_own(found: Failure, words: str, checked: re.Match[str]) -> Failure:
    """Return what a failed check of vLLM's own values means: an event, a block of an answer, or a request."""
    about, place, wrong = checked.groups()
    if about == "ChatCompletionStreamResponse":
        told = _STATUS.search(words)
        status = int(told[1]) if told else 500
        meant = read_failure(status, (), b"")
        unexplained = meant.kind not in (Kind.OVERLOADED, Kind.LOADING)
        return dataclasses.replace(meant, detail=found.detail, unexplained=unexplained, engine_lives=True)
    if about == "AnthropicContentBlock":
        message = "the model called a tool with arguments that are no JSON object"
        return dataclasses.replace(found, kind=Kind.FAILED, message=message, engine_lives=True)
    return dataclasses.replace(found, message=f"{place}: {wrong}", param=place)

"""Answers of Google's API as the types of its own SDK for Python (google-genai 3.6.1) have them, read strictly.

Rules:
- The types are written down here by that SDK's `types.py`, as far as this gateway answers with them: installing it
  costs more than they do. `tests/clients` runs the SDK itself.
- A member that the SDK does not know is a mistake, as is a value of another type.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

Kind = TypeVar("Kind")
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class FunctionCall(_Strict):
    name: str
    args: dict[str, Any]
    id: str | None = None


class Part(_Strict):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(_Strict):
    parts: Annotated[list[Part], msgspec.Meta(min_length=1)]
    role: Literal["model"]


class Token(_Strict):
    token: str
    log_probability: float


class Top(_Strict):
    candidates: list[Token]


class Probabilities(_Strict):
    top_candidates: list[Top]
    chosen_candidates: list[Token]


class Candidate(_Strict):
    content: Content
    index: Count
    finish_reason: Literal["STOP", "MAX_TOKENS", "SAFETY"] | None = None
    avg_logprobs: float | None = None
    logprobs_result: Probabilities | None = None


class Usage(_Strict):
    prompt_token_count: Count
    candidates_token_count: Count
    total_token_count: Count
    cached_content_token_count: Count | None = None
    thoughts_token_count: Count | None = None


class Answer(_Strict):
    candidates: Annotated[list[Candidate], msgspec.Meta(min_length=1)]
    model_version: str
    response_id: Annotated[str, msgspec.Meta(min_length=1)]
    usage_metadata: Usage | None = None


class Counted(_Strict):
    total_tokens: Annotated[int, msgspec.Meta(ge=1)]


class Vector(_Strict):
    values: Annotated[list[float], msgspec.Meta(min_length=1)]


class Embedded(_Strict):
    embedding: Vector


class AllEmbedded(_Strict):
    embeddings: list[Vector]


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    code: Annotated[int, msgspec.Meta(ge=400, le=599)]
    message: Annotated[str, msgspec.Meta(min_length=1)]
    status: Annotated[str, msgspec.Meta(pattern="^[A-Z_]+$")]
    details: list[dict[str, Any]]


class Refused(msgspec.Struct, forbid_unknown_fields=True):
    error: _Error


def fits(value: dict[str, Any]) -> None:
    """Hold an answer, or a piece of one, against its type; fails the test where it does not fit."""
    read(value, Answer)


def fits_whole(value: dict[str, Any]) -> None:
    """Hold an answer that is whole against its type."""
    found = read(value, Answer)
    assert found.usage_metadata is not None
    assert all(candidate.finish_reason for candidate in found.candidates)


def read(value: Any, kind: type[Kind]) -> Kind:
    """Return a value as its type. Raise msgspec's error where it does not fit."""
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)

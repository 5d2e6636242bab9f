"""How the answer of one model differs from that of another one to the same request.

Rules:
- Pure: answers as clients get them in, facts out. What cannot be told is None, and counts for neither side.
- A text is known by its digest alone. It is the text of all choices with the calls of tools, without the reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.dialect import gathered

Members = dict[str, Any]

_members = msgspec.json.Decoder(Members)


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of an answer. `first_token` is in seconds."""

    whole: bool = False
    """Whether the client got a complete answer."""
    finish: str | None = None
    text: bytes | None = None
    tokens: int | None = None
    first_token: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """How an answer differs from the original one: what is the same, and its numbers as shares of the original's."""

    outcome: bool
    finish: bool | None
    text: bool | None
    tokens: float | None
    first_token: float | None


def compare(original: Told, other: Told) -> Difference:
    """Return how `other` differs. Of answers that are not both complete, only whether they are is compared."""
    outcome = original.whole == other.whole
    if not (original.whole and other.whole):
        return Difference(outcome, None, None, None, None)
    return Difference(
        outcome,
        _same(original.finish, other.finish),
        _same(original.text, other.text),
        _share(other.tokens, original.tokens),
        _share(other.first_token, original.first_token),
    )


def said(request: Request, body: bytes | None) -> tuple[str | None, bytes | None]:
    """Return why an answer ended and the digest of its text, from its body as a client gets it."""
    if body is None:
        return None, None
    try:
        answer = _members.decode(gathered.whole(request, body, 0.0) if request.stream else body)
        finish, text = _parts(request.operation, answer)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Whatever it is, it is no answer that can be compared.
        return None, None
    return finish, None if text is None else blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _same(one: object, other: object) -> bool | None:
    return None if one is None or other is None else one == other


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _parts(operation: Operation, answer: Members) -> tuple[str | None, str | None]:
    """Return why a whole answer ended, and its text."""
    if operation is Operation.MESSAGES:
        return answer.get("stop_reason"), _joined(answer["content"])
    if operation is Operation.RESPONSES:
        output = answer["output"]
        pieces = [_joined(item["content"]) if "content" in item else _called(item) for item in output]
        return answer.get("status"), "".join(pieces)
    if operation not in (Operation.CHAT, Operation.COMPLETIONS):
        return None, None
    choices = answer["choices"]
    texts = []
    for choice in choices:
        message = choice.get("message") or {}
        texts.append(choice.get("text") or message.get("content") or "")
        texts += [_called(call.get("function") or {}) for call in message.get("tool_calls") or ()]
    return choices[0].get("finish_reason"), "\0".join(texts)


def _joined(content: list[Members]) -> str:
    """Return the text of a list of content, with its calls of tools."""
    return "".join([piece.get("text") or _called(piece) for piece in content])


def _called(call: Members) -> str:
    """Return the call of a tool as text; empty for anything else."""
    name = call.get("name")
    if not name:
        return ""
    arguments = call.get("arguments", call.get("input"))
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments, order="sorted").decode()
    return f"\0{name}({arguments})"

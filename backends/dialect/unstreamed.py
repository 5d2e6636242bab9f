"""Turn a whole answer into a stream, for engines that answer a stream request with plain JSON, asked to or not.

An engine is asked to where `Call.whole` says so.

Rules:
- Pure: the bytes of an OpenAI completion in, the bytes of its SSE events out, `[DONE]` included.
- Every choice has its finish reason, which whoever calls has looked at.
- Each choice becomes two events: everything in it, and its finish reason. Members the gateway does not know are kept
  unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.dialect.chunks import DONE
from backends.framing import sse

Members = dict[str, msgspec.Raw]

_NAMED = ("id", "created", "system_fingerprint", "service_tier")


class _Choice(msgspec.Struct):
    index: int | None = None
    message: Members | None = None
    text: msgspec.Raw = msgspec.Raw(b'""')
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: msgspec.Raw = msgspec.Raw(b"null")


_answer = msgspec.json.Decoder(_Answer)
_members = msgspec.json.Decoder(Members)
_calls = msgspec.json.Decoder(list[Members] | None)


def stream_of(request: Request, body: bytes) -> bytes:
    """Return the events of the completion in `body`. Raise ValueError if it is no completion."""
    answer, members = _answer.decode(body), _members.decode(body)
    chat = request.operation is Operation.CHAT
    envelope: dict[str, Any] = {name: members[name] for name in _NAMED if name in members}
    envelope |= {"object": "chat.completion.chunk" if chat else "text_completion", "model": request.model}
    chunks = [envelope | {"choices": [choice]} for choice in _choices(answer, chat)]
    if request.include_usage:
        chunks.append(envelope | {"choices": [], "usage": answer.usage})
    return b"".join([*map(_event, chunks), DONE])


def _event(chunk: dict[str, Any]) -> bytes:
    # Some engines indent their JSON; a line break between its tokens is only white space.
    return sse.encode(msgspec.json.encode(chunk).replace(b"\r", b" ").replace(b"\n", b" "))


def _choices(answer: _Answer, chat: bool) -> Iterator[dict[str, Any]]:
    for place, choice in enumerate(answer.choices):
        index = place if choice.index is None else choice.index
        said = {"delta": _delta(choice.message or {})} if chat else {"text": choice.text}
        yield {"index": index, **said, "logprobs": choice.logprobs, "finish_reason": None}
        nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        yield {"index": index, **nothing, "logprobs": None, "finish_reason": choice.finish_reason}


def _delta(message: Members) -> dict[str, Any]:
    """Return a message as a delta, in which tool calls have an index."""
    calls = _calls.decode(message.get("tool_calls", b"null"))
    if not calls:
        return dict(message)
    return message | {"tool_calls": [{"index": place} | call for place, call in enumerate(calls)]}

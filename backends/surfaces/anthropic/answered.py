"""A chat completion as a message of Anthropic's API: its blocks, why it ended, and its counts.

Rules:
- The words for the end of an answer and the counts are the same for whole answers and streams: both are made here.
- Anthropic's `input_tokens` leave out what was read from a cache and written to one, a chat's `prompt_tokens` do not.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from backends.base import Request, Usage
from backends.dialect import partial
from backends.surfaces import chat

_REASONS: Mapping[str, str] = {
    "length": "max_tokens",
    "content_filter": "refusal",
}
_STOPS = ("stop", "tool_calls", "function_call")
"""The reasons of an answer that the model itself has ended."""
_CALL = "tool_use"


def message(request: Request, answer: bytes, usage: Usage) -> bytes:
    """Return a whole answer. Raise ValueError if it cannot be read."""
    said = chat.decode(answer)
    choice = said.first
    if choice is None or choice.message is None:
        raise ValueError("the answer has no choice")
    blocks = _blocks(choice.message)
    called = any(block["type"] == _CALL for block in blocks)
    reason, sequence = ending(choice.finish_reason, choice.stopped_at, called)
    return msgspec.json.encode(
        {
            "id": identity(said.id),
            "type": "message",
            "role": "assistant",
            "model": request.model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": counts(usage),
        }
    )


def _blocks(said: chat.Said) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    for name, call in chat.named(said.tool_calls):
        given = partial.readable(chat.arguments_of(call))
        blocks.append(
            {
                "type": _CALL,
                "id": call.id or call_id(),
                "name": name,
                "input": given if isinstance(given, dict) else {},
            }
        )
    return blocks


def ending(reason: str | None, stopped_at: str | None, called: bool) -> tuple[str, str | None]:
    """Return `stop_reason` and `stop_sequence`.

    `reason` is the chat's finish reason, `stopped_at` the stop string that was hit, where the engine tells; `called`
    says that a tool was called, which some engines end with `stop`. Where none was, the end is no `tool_use`, whatever
    the engine says: programs would wait for a call, or ask again without end.
    """
    if reason in _STOPS and called:
        return "tool_use", None
    if reason == "stop" and stopped_at is not None:
        return "stop_sequence", stopped_at
    return _REASONS.get(reason or "", "end_turn"), None


def counts(usage: Usage) -> dict[str, Any]:
    """Return `usage`; what the engine did not count is 0 where every message has it, and left out elsewhere."""
    told: dict[str, Any] = {
        "input_tokens": max(0, usage.input - (usage.cached or 0) - (usage.cache_write or 0)),
        "output_tokens": usage.output,
    }
    if usage.cached:
        told["cache_read_input_tokens"] = usage.cached
    if usage.cache_write:
        told["cache_creation_input_tokens"] = usage.cache_write
    return told


def identity(said: Any) -> str:
    """Return the id of a message, made of the engine's for the answer where it tells one."""
    if isinstance(said, str) and said:
        return "msg_" + said.removeprefix("chatcmpl-")
    return "msg_" + secrets.token_hex(12)


def call_id() -> str:
    """Return an id for a call to which the engine gave none."""
    return "toolu_" + secrets.token_hex(12)

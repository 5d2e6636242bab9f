"""What engines leave out of the answers of Anthropic's Messages API, and typed clients need.

Rules:
- Pure: an answer or an event in, the same with what is missing out. Everything else stays as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialect import rewrite
from backends.dialect.chunks import fresh_id
from backends.framing import sse


def stopped(text: bytes) -> bytes:
    """Return the end of a message at a stop sequence, which llama.cpp (b11549) calls the end of a turn."""
    return text.replace(b'"stop_reason":"end_turn"', b'"stop_reason":"stop_sequence"')


_FIRST: dict[str, tuple[str, Any]] = {"thinking": ("signature", ""), "tool_use": ("input", {})}
"""What a block of each type has at its beginning, and no engine's stream fills before its deltas."""


def begun(event: bytes, block: Any) -> bytes:
    """Return the event that begins a block of a message, with what its type has at least.

    llama.cpp (b11549) leaves out a thought's signature and the input of a call, vLLM (0.32) the former.
    """
    first = _FIRST.get(str(block.get("type"))) if isinstance(block, dict) else None
    if first is None or first[0] in block:
        return event
    members = rewrite.members(sse.payload(event) or b"")
    members["content_block"] = msgspec.json.encode({**block, first[0]: first[1]})
    return b"event: content_block_start\ndata: " + rewrite.joined(members)


def beginning(name: bytes) -> bytes:
    """Return the event that begins a message, with its blank line; `name` is the model's, as JSON."""
    message: dict[str, Any] = {
        "id": fresh_id("msg"),
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": msgspec.Raw(name),
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    event = msgspec.json.encode({"type": "message_start", "message": message})
    return b"event: message_start\n" + sse.encode(event)

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


def signed(block: bytes, begun: Any) -> bytes:
    """Return the event that begins a block of a message; a thought without a signature gets an empty one.

    llama.cpp (b11549) and vLLM (0.32) leave it out there.
    """
    if not isinstance(begun, dict) or begun.get("type") != "thinking" or "signature" in begun:
        return block
    members = rewrite.members(sse.payload(block) or b"")
    members["content_block"] = msgspec.json.encode({**begun, "signature": ""})
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

"""The starts of a prompt as numbers: two prompts share a number where they begin alike up to there.

Rules:
- What counts is what the model reads, in the order of the APIs' chat templates: tools and system prompt first, then the
  messages. Formatting, escapes and the order of members do not count, nor does it whether a text stands alone or as one
  part of several; nor what only steers a provider's cache.
- What all requests of an application share (tools, system prompt, leading system messages) is one start. What follows
  is cut after the first message and then in growing steps: a long conversation has a few dozen starts, not thousands.
- The cost grows with the prompt up to `LIMIT`, and no further. What is too long or odd to be read counts as its bytes.
- The numbers are of this process: other processes have others for the same prompt.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backends.base import Operation
from gateway.asked import Asked

LIMIT: Final = 128 << 10
"""Bytes of a conversation that are looked at."""
STEP: Final = 1024
"""Bytes between two starts at first; later half of what came before."""

_READ: Final = frozenset(
    {
        *(Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES),
        *(Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE, Operation.GEMINI_GENERATE),
    }
)
"""The operations whose prompts engines keep in a cache."""
_SHARED: Final = ("tools", "functions", "system", "instructions", "systemInstruction", "system_instruction")
_PROMPTS: Final = ("messages", "input", "prompt", "contents")
_LEADING: Final = ("system", "developer")
_IGNORED: Final = frozenset({"role", "content", "cache_control", "id", "status"})
"""Members of a message that come first, or that no model reads."""

_anything: Final = msgspec.json.Decoder(Any)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_sorted: Final = msgspec.json.Encoder(order="sorted")


class Starts:
    """The starts of one prompt, the shortest first."""

    __slots__ = ("numbers", "shared")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.shared: bool = False
        """Whether the first one is what an application's requests share."""


def starts(asked: Asked) -> Starts:
    """Return the starts of the prompt of a request; none where engines keep no prompt."""
    found = Starts()
    if asked.request.operation not in _READ:
        return found
    members = asked.members
    shared = [_canonical(bytes(members[name])) for name in _SHARED if name in members]
    messages: list[bytes] = []
    for name in _PROMPTS:
        if name in members:
            messages = _messages(bytes(members[name]), shared)
            break
    chained = 0
    if shared:
        chained = hash(b"\0".join(shared))
        found.numbers.append(chained)
        found.shared = True
    _cut(messages, chained, found.numbers)
    return found


def _cut(messages: list[bytes], chained: int, numbers: list[int]) -> None:
    """Add the number of each start within the messages, chained to what stands before them."""
    text = b"".join(messages)[:LIMIT]
    last = end = 0
    for message in messages:
        end = min(end + len(message), LIMIT)
        step = max(STEP, last >> 1)
        while end - last >= step:
            chained = hash((chained, text[last : last + step]))
            numbers.append(chained)
            last += step
            step = max(STEP, last >> 1)
        if end > last and (message is messages[0] or end - last >= max(STEP >> 2, last >> 2)):
            chained = hash((chained, text[last:end]))
            numbers.append(chained)
            last = end
        if end == LIMIT:
            return


def _messages(prompt: bytes, shared: list[bytes]) -> list[bytes]:
    """Return the messages of a prompt as far as they are looked at; leading system messages go to `shared`."""
    try:
        parts = _list.decode(prompt)
    except (msgspec.MsgspecError, RecursionError):
        return [_canonical(prompt)]
    if parts and not bytes(parts[0]).startswith((b"{", b'"')):
        return [_canonical(prompt)]
    messages: list[bytes] = []
    size = 0
    for part in parts:
        role, text = _message(bytes(part))
        if not messages and role in _LEADING:
            shared.append(text)
            continue
        messages.append(text)
        size += len(text)
        if size >= LIMIT:
            break
    return messages


def _message(part: bytes) -> tuple[str, bytes]:
    """Return the role of a message, and its text in one form for all formattings."""
    if len(part) > LIMIT:
        return "", part[:LIMIT]
    try:
        message = _anything.decode(part)
    except (msgspec.MsgspecError, RecursionError):
        return "", part
    if not isinstance(message, dict):
        return "", _text(message)
    role = message.get("role")
    pieces = [_text(role), b"\0", _text(message.get("content"))]
    for name in sorted(message):
        value = message[name]
        if name not in _IGNORED and value is not None:
            pieces.append(name.encode())
            pieces.append(_sorted.encode(value))
    pieces.append(b"\0")
    return role if isinstance(role, str) else "", b"".join(pieces)


def _text(value: object) -> bytes:
    """Return content in one form: a text, or the texts of its parts one after the other."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if value is None:
        return b""
    if not isinstance(value, list):
        return _sorted.encode(value)
    pieces: list[bytes] = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            pieces.append(text.encode("utf-8", "replace"))
        else:
            pieces.append(_sorted.encode(part))
    return b"".join(pieces)


def _canonical(raw: bytes) -> bytes:
    """Return a member in one form for all formattings."""
    if len(raw) > LIMIT:
        return raw[:LIMIT]
    try:
        value = _anything.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return raw
    return value.encode("utf-8", "replace") if isinstance(value, str) else _sorted.encode(value)

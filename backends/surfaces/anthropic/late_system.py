"""System messages among the messages of a request of Anthropic's, which engines and their templates do not take there.

Facts: Claude Code 2.1 sends a system message behind a user's turn on nearly every request. Most templates allow one at
the beginning alone, those of engines that speak Messages themselves too (llama.cpp, vLLM and Ollama answer 400 or 500).

Rules:
- By default what they say joins the system text at the beginning. Where the model wants it so, it becomes part of the
  user's turn instead: the beginning of the prompt stays as it was, so that engines reuse what they computed for it.
- A system message before all others is system text either way.
- Results of tools come first in a turn that is put together, as the API demands.
- A request that is odd stays as it is, for others to refuse.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.dialect import rewrite

OPERATIONS = (Operation.MESSAGES, Operation.COUNT_TOKENS)
"""The operations whose requests have such messages."""
_ROLES = (b'"role":"system"', b'"role": "system"')

_messages = msgspec.json.Decoder(list[dict[str, Any]])
_any = msgspec.json.Decoder()

Message = dict[str, Any]


def placed(request: Request, as_user: bool) -> Request:
    """Return a request without system messages; `as_user`: later ones are said in the user's turns."""
    if not any(role in request.body for role in _ROLES):
        return request
    members = rewrite.members(request.body)
    try:
        turns = _Turns(_blocks(_any.decode(members.get("system", b"[]"))))
        for message in _messages.decode(members["messages"]):
            if message.get("role") != "system":
                turns.add(message)
            elif as_user and turns.messages:
                turns.interject(_blocks(message.get("content")))
            else:
                turns.system += _blocks(message.get("content"))
    except (ValueError, LookupError, TypeError):
        return request
    changed = {"system": msgspec.json.encode(turns.system), "messages": msgspec.json.encode(turns.messages)}
    return msgspec.structs.replace(request, body=rewrite.joined(members | changed))


class _Turns:
    """The messages of a conversation, and its system text."""

    def __init__(self, system: list[Any]) -> None:
        self.system = system
        self.messages: list[Message] = []
        self._holds_system = False
        """Whether the last message says what a system message said."""

    def add(self, message: Message) -> None:
        """Add a message of user or model; one of the user belongs to the turn that a system message has begun."""
        if self._holds_system and message.get("role") == "user":
            self._join(_blocks(message.get("content")))
        else:
            self.messages.append(message)
            self._holds_system = False

    def interject(self, blocks: list[Any]) -> None:
        """Say something in the user's turn, which it begins where the last message is not the user's."""
        if not blocks:
            return
        if self.messages[-1].get("role") == "user":
            self._join(blocks)
        else:
            self.messages.append({"role": "user", "content": blocks})
        self._holds_system = True

    def _join(self, blocks: list[Any]) -> None:
        """Add blocks to the last message."""
        last = self.messages[-1]
        said = [*_blocks(last.get("content")), *blocks]
        results = [block for block in said if _is_result(block)]
        self.messages[-1] = last | {"content": [*results, *(one for one in said if not _is_result(one))]}


def _is_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _blocks(content: Any) -> list[Any]:
    """Return a content as blocks. Raise TypeError if it is none."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if content is None:
        return []
    if not isinstance(content, list):
        raise TypeError("no content")
    return content

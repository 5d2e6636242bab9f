"""A model's system prompt and its example turns, put where the client's API has them.

Rules:
- Chat has it as its first message, with the role `system` or `developer`; the Responses API as `instructions`, or as
  the first item of its input; Anthropic's API as `system`. Raw completions have none: nothing is put there.
- Only the beginning of a conversation counts. What a client says to the model later on stays.
- Example turns stand behind the system prompt, whoever's it is, and before what the client says. A response that
  continues one which the engine keeps has them there already.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from backends.base import Operation
from backends.dialect.members import Items, Members

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SYSTEM = (b'"system"', b'"developer"')
_BETWEEN = "\n\n"
_CONVERSED = (Operation.CHAT, Operation.TOKENIZE, Operation.MESSAGES, Operation.COUNT_TOKENS)
"""The operations with a list of messages."""
_CONTINUED = ("previous_response_id", "conversation")
"""What names a conversation that the engine keeps."""


class Mode(enum.StrEnum):
    """What becomes of the client's own system prompt."""

    DEFAULT = "default"
    """It stands; the model's is for those who send none."""
    PREPEND = "prepend"
    """It follows the model's."""
    REPLACE = "replace"
    """It is left out."""


class System:
    """The system prompt of a model."""

    __slots__ = ("_block", "_message", "_mode", "_text")

    def __init__(self, text: str, mode: Mode = Mode.DEFAULT) -> None:
        self._text: str = text
        self._mode: Mode = mode
        self._message: bytes = msgspec.json.encode({"role": "system", "content": text})
        self._block: bytes = msgspec.json.encode({"type": "text", "text": text})

    def apply(self, members: Members, operation: Operation) -> None:
        """Put the prompt into the members of a request."""
        if operation is Operation.RESPONSES:
            self._responses(members)
        elif operation in (Operation.MESSAGES, Operation.COUNT_TOKENS):
            self._member(members, "system")
        elif operation in (Operation.CHAT, Operation.TOKENIZE):
            self._messages(members)

    def _messages(self, members: Members) -> None:
        raw = members.get("messages")
        if raw is None or raw[:1] != b"[":
            return
        items = Items(raw)
        first = _system_in(items)
        if first is not None and self._mode is Mode.REPLACE:
            while _system_in(items) is not None:
                items.drop_first()
            items.insert(self._message)
        elif first is not None and self._mode is Mode.PREPEND:
            first.put("content", self._before(first.get("content")))
            items.put_first(first.body())
        elif first is None:
            items.insert(self._message)
        if items.changed:
            members.put("messages", items.body())

    def _responses(self, members: Members) -> None:
        raw = members.get("input")
        items = Items(raw) if raw is not None and raw[:1] == b"[" else None
        if items is not None and _system_in(items) is not None:
            if self._mode is Mode.DEFAULT:
                return
            if self._mode is Mode.REPLACE:
                while _system_in(items) is not None:
                    items.drop_first()
                members.put("input", items.body())
        self._member(members, "instructions")

    def _member(self, members: Members, name: str) -> None:
        """Put the prompt into a member that is text, or a list of blocks of text."""
        found = members.get(name)
        has_one = found is not None and found not in (b"null", b'""', b"[]")
        if not has_one or self._mode is Mode.REPLACE:
            members.put(name, msgspec.json.encode(self._text))
        elif self._mode is Mode.PREPEND:
            members.put(name, self._before(found))

    def _before(self, content: bytes | None) -> bytes:
        """Return a client's text, or list of blocks, with the prompt before it."""
        if content is not None and content[:1] == b'"':
            return msgspec.json.encode(self._text + _BETWEEN)[:-1] + content[1:]
        if content is not None and content[:1] == b"[":
            blocks = Items(content)
            blocks.insert(self._block)
            return blocks.body()
        return msgspec.json.encode(self._text)


class Examples:
    """Turns that every conversation with the model begins with."""

    __slots__ = ("_turns",)

    def __init__(self, turns: Sequence[tuple[str, str]]) -> None:
        """Take the turns: who says what, `user` or `assistant`."""
        self._turns: list[bytes] = [
            msgspec.json.encode({"role": role, "content": content}) for role, content in turns
        ]

    def apply(self, members: Members, operation: Operation) -> None:
        """Put the turns into the members of a request."""
        if operation is Operation.RESPONSES:
            self._responses(members)
        elif operation in _CONVERSED:
            raw = members.get("messages")
            if raw is not None and raw[:1] == b"[":
                members.put("messages", self._before(Items(raw)))

    def _responses(self, members: Members) -> None:
        for name in _CONTINUED:
            if members.get(name) not in (None, b"null"):
                return
        raw = members.get("input")
        if raw is not None and raw[:1] == b"[":
            members.put("input", self._before(Items(raw)))
        elif raw is not None and raw[:1] == b'"':
            said = b'{"role":"user","content":' + raw + b"}"
            members.put("input", b"[" + b",".join([*self._turns, said]) + b"]")

    def _before(self, items: Items) -> bytes:
        """Return a conversation with the turns behind the system messages that it begins with."""
        count = 0
        for value in items.values:
            if not _is_system(value):
                break
            count += 1
        items.insert_behind(count, self._turns)
        return items.body()


def _is_system(message: bytes) -> bool:
    if message[:1] != b"{":
        return False
    role = _members.decode(message).get("role")
    return role is not None and bytes(role) in _SYSTEM


def _system_in(items: Items) -> Members | None:
    """Return the first message if it is a system prompt."""
    first = items.first
    return Members(first) if first is not None and _is_system(first) else None

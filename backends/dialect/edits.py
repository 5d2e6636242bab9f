"""Edits of a client's request that several engines need: what OpenAI's API takes and an engine does not.

Rules:
- A request is its top-level members by name, with the bytes of their values (`rewrite.members`). What is not edited
  keeps its bytes; what cannot be read is left for the engine to refuse.
- A member that an engine would ignore without a word is refused by name, unless it asks for nothing.
- A content that would be lost without a word is refused as the client's mistake.
- A tool call of an earlier turn whose arguments are no JSON object, as a token limit cuts them off, is sent with what
  can be read of them: an engine that refused it would refuse every later turn of the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from backends.base import Failure, Kind, RequestError
from backends.dialect import partial, rewrite
from backends.dialect.dropped import asks_for_nothing

Members = dict[str, bytes]

_PICTURES = ("image_url", "image", "input_image", "video_url", "video", "audio_url", "input_audio", "audio")
"""Parts of a content that only some models read; they pass as they are."""
_SHORTEST_CALL = len('[{"function":{"arguments":""}}]')

_SYSTEM: Members = {"role": b'"system"'}

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_strings = msgspec.json.Decoder(str | list[str])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None


class _Named(msgspec.Struct):
    """A tool, or the choice of one: its name is nested in chat, flat in the Responses API and in Anthropic's."""

    type: str = ""
    name: str | None = None
    function: _Function | None = None


_message = msgspec.json.Decoder(_Message)
_calls = msgspec.json.Decoder(list[_Call])
_parts = msgspec.json.Decoder(list[_Part])
_named = msgspec.json.Decoder(_Named)


def unsupported(name: str, why: str = "the engine does not hear it") -> RequestError:
    """Return the refusal of a member that the engine cannot serve; another backend may be able to."""
    return RequestError(Failure(Kind.UNSUPPORTED, f"{name!r}: {why}", param=name))


def rejected(name: str, why: str) -> RequestError:
    """Return the refusal of a request in which a member is wrong."""
    return RequestError(Failure(Kind.REJECTED, f"{name!r}: {why}", param=name))


def without_nulls(members: Members) -> Members:
    """Return the members that are not null: a null means the same as nothing, and SDKs send many."""
    return {name: value for name, value in members.items() if value != b"null"}


def refuse(members: Members, names: Iterable[str]) -> None:
    """Raise RequestError for the first of these members that asks for something; drop those that do not."""
    for name in names:
        value = members.get(name)
        if value is None:
            continue
        if not asks_for_nothing(name, value):
            raise unsupported(name)
        del members[name]


def rename(members: Members, old: str, new: str) -> None:
    """Give a member the engine's own name for it; one that the client sent under that name counts more."""
    value = members.pop(old, None)
    if value is not None:
        members.setdefault(new, value)


def stops(members: Members, name: str) -> list[str]:
    """Return the stop strings of a request, and take the empty ones out of it; none where they cannot be read."""
    value = members.get(name)
    if value is None:
        return []
    try:
        said = _strings.decode(value)
    except ValueError:
        return []
    found = [stop for stop in ([said] if isinstance(said, str) else said) if stop]
    if not found:
        del members[name]
    elif isinstance(said, list) and len(found) < len(said):
        members[name] = msgspec.json.encode(found)
    return found


def within(members: Members, name: str, lowest: int, highest: int) -> None:
    """Bring a whole number that an engine cannot store into its range, always to the same number."""
    value = members.get(name, b"")
    if value.lstrip(b"-").isdigit():
        number = int(value[:40])
        if not lowest <= number <= highest:
            members[name] = b"%d" % (number % (highest + 1))


def prompts(members: Members, tokens: bool) -> int:
    """Return how many prompts there are; a list of one becomes that one. Raise RequestError for an empty list.

    Also for lists of tokens, unless the engine takes `tokens`.
    """
    value = members.get("prompt", b"")
    if not value.startswith(b"["):
        return 1
    try:
        found = _raws.decode(value)
    except (ValueError, RecursionError):
        return 1
    if not found:
        raise rejected("prompt", "the list is empty")
    first = bytes(found[0])
    if not first.startswith(b'"'):
        if not tokens:
            raise unsupported("prompt", "the engine takes texts, no tokens")
        return len(found) if first.startswith(b"[") else 1
    if len(found) == 1:
        members["prompt"] = first
    return len(found)


def force(members: Members, any_tool: bytes, flat: bool = False) -> None:
    """Turn a choice of one tool into that tool alone and `any_tool`, for engines that do not force a named one.

    `flat` is the form of the Responses API and of Anthropic's. Raise RequestError if there is no tool of that name.
    """
    value = members.get("tool_choice", b"")
    if not value.startswith(b"{"):
        return
    try:
        choice = _named.decode(value)
        tools = _raws.decode(members.get("tools", b"[]"))
        named = [(_named.decode(tool), bytes(tool)) for tool in tools]
    except (ValueError, RecursionError):
        return
    if choice.type not in ("function", "tool"):
        return
    name = _name(choice, flat)
    if name is None:
        return
    for tool, raw in named:
        if name == _name(tool, flat):
            members["tools"] = b"[" + raw + b"]"
            members["tool_choice"] = any_tool
            return
    raise rejected("tool_choice", f"there is no tool {name[:64]!r} in 'tools'")


def _name(tool: _Named, flat: bool) -> str | None:
    """Return the name of a tool, or of the one that is chosen."""
    if flat:
        return tool.name
    return None if tool.function is None else tool.function.name


def messages(members: Members) -> None:
    """Put the messages of a chat right: `developer` becomes `system`, texts in parts one text, arguments an object.

    Raise RequestError for what engines leave out of the prompt without a word.
    """
    try:
        found = _raws.decode(members.get("messages", b""))
        read = [_message.decode(raw) for raw in found]
    except (ValueError, RecursionError):
        return
    changed = False
    out: list[bytes] = []
    for raw, message in zip(found, read, strict=True):
        edited = _edited(message)
        changed = changed or bool(edited)
        out.append(rewrite.joined({**rewrite.members(bytes(raw)), **edited}) if edited else bytes(raw))
    if changed:
        members["messages"] = b"[" + b",".join(out) + b"]"


def developer(members: Members) -> None:
    """Turn messages of the role `developer` into those of `system`, for engines or templates that know no such role."""
    value = members.get("messages", b"")
    if b'"developer"' not in value:
        return
    try:
        found = _raws.decode(value)
        roles = [bytes(_message.decode(raw).role) for raw in found]
    except (ValueError, RecursionError):
        return
    out = [
        rewrite.joined(rewrite.members(bytes(raw)) | _SYSTEM) if role == b'"developer"' else bytes(raw)
        for raw, role in zip(found, roles, strict=True)
    ]
    members["messages"] = b"[" + b",".join(out) + b"]"


def ends_with_an_answer(members: Members) -> bool:
    """Return whether the last message of a chat is text of the assistant, with which the answer is to begin."""
    try:
        found = _raws.decode(members.get("messages", b""))
        last = _message.decode(found[-1]) if found else _Message()
    except (ValueError, RecursionError):
        return False
    calls = bytes(last.tool_calls) in (b"", b"null", b"[]")
    return bytes(last.role) == b'"assistant"' and bytes(last.content)[:2] not in (b"", b'""', b"nu") and calls


def _edited(message: _Message) -> Mapping[str, bytes]:
    """Return the members of a message that must be others."""
    edited: dict[str, bytes] = {}
    if bytes(message.role) == b'"developer"':
        edited |= _SYSTEM
    content = bytes(message.content)
    if content.startswith(b"["):
        text = _joined(content)
        if text is not None:
            edited["content"] = text
    elif content.startswith(b"{"):
        raise rejected("messages", "a content is a text or a list of parts, not an object")
    calls = _with_arguments(bytes(message.tool_calls))
    if calls is not None:
        edited["tool_calls"] = calls
    return edited


def _joined(content: bytes) -> bytes | None:
    """Return a list of parts as one text; None where some of it is no text, or it cannot be read."""
    try:
        parts = _parts.decode(content)
    except (ValueError, RecursionError):
        return None
    texts: list[str] = []
    for part in parts:
        if part.type in _PICTURES:
            return None
        if part.type != "text" or part.text is None:
            raise rejected("messages", f"a part of type {str(part.type)[:64]!r} is not one of a chat message")
        texts.append(part.text)
    return msgspec.json.encode("".join(texts))


def past_calls(members: Members) -> None:
    """Put the arguments of a chat's earlier calls right, as `messages` does, and nothing else."""
    value = members.get("messages", b"")
    if b'"tool_calls"' not in value:
        return
    try:
        found = [rewrite.members(bytes(raw)) for raw in _raws.decode(value)]
    except (ValueError, RecursionError):
        return
    changed = False
    for message in found:
        calls = _with_arguments(bytes(message.get("tool_calls", b"")))
        if calls is not None:
            message["tool_calls"], changed = calls, True
    if changed:
        members["messages"] = b"[" + b",".join(map(rewrite.joined, found)) + b"]"


def past_items(members: Members) -> None:
    """Put the arguments of earlier calls right in the items of a request of the Responses API."""
    value = members.get("input", b"")
    if b'"arguments"' not in value or not value.startswith(b"["):
        return
    try:
        items = _any.decode(value)
    except (ValueError, RecursionError):
        return
    changed = False
    for item in items:
        said = item.get("arguments") if isinstance(item, dict) else None
        if isinstance(said, str) and (right := arguments_object(said).decode()) != said:
            item["arguments"], changed = right, True
    if changed:
        members["input"] = msgspec.json.encode(items)


def arguments_object(text: str) -> bytes:
    """Return the arguments of a tool call as a JSON object: its own bytes if they are one, else what can be read.

    Nothing is `{}`. Of an object that was cut off the beginning is kept, a text that was cut off included. What is no
    object at all becomes the only member, `arguments`, of one.
    """
    if not text or text.isspace():
        return b"{}"
    try:
        _object.decode(text)
    except (ValueError, RecursionError):
        said = partial.readable(text)
        return msgspec.json.encode(said if isinstance(said, dict) else {"arguments": text})
    return text.encode()


def _with_arguments(raw: bytes) -> bytes | None:
    """Return tool calls whose arguments are the text of a JSON object; None where they are so already."""
    if len(raw) < _SHORTEST_CALL:
        return None
    try:
        calls = _calls.decode(raw)
        wrong: dict[int, str] = {}
        for place, call in enumerate(calls):
            said = call.function.arguments if call.function else None
            if isinstance(said, dict):
                wrong[place] = msgspec.json.encode(said).decode()
            elif isinstance(said, str):
                right = arguments_object(said).decode()
                if right != said:
                    wrong[place] = right
        if not wrong:
            return None
        changed = _any.decode(raw)
    except (ValueError, RecursionError):
        return None
    for place, right in wrong.items():
        changed[place]["function"]["arguments"] = right
    return msgspec.json.encode(changed)


def hold_to_schema(members: Members) -> None:
    """Ask for arguments that fit the schemas of the tools where one is forced, unless a tool says otherwise."""
    if members.get("tool_choice", b"") != b'"required"' and b"{" not in members.get("tool_choice", b""):
        return
    try:
        tools = _any.decode(members.get("tools", b"[]"))
        for tool in tools:
            tool["function"].setdefault("strict", True)
    except (ValueError, RecursionError, TypeError, AttributeError, LookupError):
        return
    if tools:
        members["tools"] = msgspec.json.encode(tools)

"""Turn requests into what vLLM takes: without the nulls and empty values that it refuses, and that mean nothing.

Facts are those of vLLM 0.32, each tried on its server.

Rules:
- Nearly every request passes as it came: its body is taken apart only where it holds one of the bytes that matter.
- What vLLM would fail with 500 for, or drop without a word, is refused by name where the gateway can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from backends.base import Operation, Request
from backends.dialect import edits, rewrite
from backends.dialect.edits import Members
from backends.dialect.openai import FORMS

_OF_ALL: Final = (b"null",)
_SIGNS: Final[Mapping[Operation, tuple[bytes, ...]]] = {
    Operation.CHAT: (
        *(b"null", b'""', b"[]", b'"tool_choice"', b'"structured_outputs"', b'tokens":0', b'tokens": 0'),
    ),
    Operation.COMPLETIONS: (
        *(b"null", b'""', b"[]", b'"structured_outputs"', b'"best_of"', b'tokens":0', b'tokens": 0'),
    ),
    Operation.EMBEDDINGS: (b"null", b'"bytes'),
    Operation.RESPONSES: (b"null", b'"background"'),
}
"""What a body must hold for some edit to apply; other operations have `_OF_ALL`."""

_NONE: Final = (b"[]", b"null")
_CHOICES_WITHOUT_TOOLS: Final = (b'"auto"', b'"none"')
_BYTES: Final = (b'"bytes"', b'"bytes_only"')
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_ONE: Final = (b"1", b"1.0")

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_tools = msgspec.json.Decoder(list[dict[str, Any]])


def edited(request: Request) -> Request:
    """Return a request as vLLM is asked. Raise RequestError for what it cannot do."""
    operation, body = request.operation, request.body
    if operation in FORMS or not any(sign in body for sign in _SIGNS.get(operation, _OF_ALL)):
        return request
    given = rewrite.members(body)
    members = edits.without_nulls(given)
    edit = _EDITS.get(operation)
    if edit is not None:
        edit(members)
    return request if members == given else msgspec.structs.replace(request, body=rewrite.joined(members))


def _sampling(members: Members) -> None:
    """Edit what chats and completions have in common."""
    edits.stops(members, "stop")
    if not members.get("structured_outputs", b"{").startswith(b"{"):
        raise edits.rejected("structured_outputs", "expected an object")


def _chat(members: Members) -> None:
    _sampling(members)
    for name in _LIMITS:
        if members.get(name) == b"0":
            raise edits.rejected(name, "expected at least 1")
    if members.get("tools") in _NONE:
        del members["tools"]
    if "tools" not in members and members.get("tool_choice") in _CHOICES_WITHOUT_TOOLS:
        del members["tool_choice"]
    if members.get("tool_choice", b"").startswith(b"{"):
        _named_tools(members.get("tools", b"[]"))
    if b'"name"' in members.get("messages", b""):
        _without_null_names(members)


def _named_tools(value: bytes) -> None:
    """Raise RequestError for a tool without a name where one is chosen by its name: vLLM fails over it."""
    try:
        tools = _tools.decode(value)
    except (ValueError, RecursionError):
        return
    for tool in tools:
        function = tool.get("function")
        if tool.get("type") == "function" and not (isinstance(function, dict) and "name" in function):
            raise edits.rejected("tools", "a tool of type 'function' has no function with a name")


def _without_null_names(members: Members) -> None:
    """Take `name` out of the messages in which it is null."""
    try:
        found = [rewrite.members(bytes(raw)) for raw in _raws.decode(members["messages"])]
    except (ValueError, RecursionError):
        return
    if any(message.get("name") == b"null" for message in found):
        for message in found:
            if message.get("name") == b"null":
                del message["name"]
        members["messages"] = b"[" + b",".join(map(rewrite.joined, found)) + b"]"


def _completion(members: Members) -> None:
    _sampling(members)
    if members.get("suffix") == b'""':
        del members["suffix"]
    if members.get("max_tokens") == b"0" and members.get("echo") != b"true":
        raise edits.rejected("max_tokens", "expected at least 1, or 'echo'")
    best = members.pop("best_of", b"1")
    if best not in _ONE and best != members.get("n"):
        raise edits.unsupported("best_of")


def _embedding(members: Members) -> None:
    if members.get("encoding_format") in _BYTES:
        raise edits.unsupported("encoding_format", "the gateway passes vectors as 'float' or 'base64'")


def _response(members: Members) -> None:
    edits.refuse(members, ("background",))


_EDITS: Final[Mapping[Operation, Callable[[Members], None]]] = {
    Operation.CHAT: _chat,
    Operation.COMPLETIONS: _completion,
    Operation.EMBEDDINGS: _embedding,
    Operation.RESPONSES: _response,
}

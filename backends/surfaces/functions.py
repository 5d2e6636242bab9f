"""Chats with OpenAI's older `functions` and `function_call`, for engines that know only the tools that replaced them.

Rules:
- A function is a tool, a choice of one the choice of that tool, a call of an earlier turn the only call of its message,
  and a `function` message the result of the last call of that name before it.
- There is one call in an answer, as in the older API: the first is kept, and the engine is asked for no more.
- Everything else of request, answer and stream passes as it is.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from backends.base import Operation, Request, Usage
from backends.dialect import rewrite
from backends.framing import sse
from backends.surfaces.surface import InvalidRequest
from backends.surfaces.translation import Codec, Said, Writer

_SIGNS = (b'"functions"', b'"function_call"')
_NOTHING = (b"", b"null", b"[]")
_CALLS = b'"tool_calls"'

_any = msgspec.json.Decoder()
_messages = msgspec.json.Decoder(list[dict[str, Any]])
_functions = msgspec.json.Decoder(list[dict[str, Any]])
_encode = msgspec.json.encode


def used(request: Request) -> bool:
    """Tell whether a chat offers functions in the older way, or goes on with one that did."""
    if not any(sign in request.body for sign in _SIGNS):
        return False
    members = rewrite.members(request.body)
    if members.get("functions", b"") not in _NOTHING:
        return True
    try:
        return any(map(_is_older, _messages.decode(members.get("messages", b"[]"))))
    except msgspec.ValidationError:
        return False


def _is_older(message: dict[str, Any]) -> bool:
    return message.get("role") == "function" or bool(message.get("function_call"))


class Functions(Codec):
    """The codec of such chats."""

    operation: ClassVar[Operation] = Operation.CHAT
    said_as: ClassVar[Operation] = Operation.CHAT

    def asked(self, request: Request) -> Said:
        members = rewrite.members(request.body)
        functions = members.pop("functions", b"null")
        choice = members.pop("function_call", b"null")
        if functions not in _NOTHING:
            if "tools" in members:
                raise InvalidRequest("both 'functions' and 'tools' are given", param="functions")
            members["tools"] = _encode([{"type": "function", "function": each} for each in _read(functions)])
            members["parallel_tool_calls"] = b"false"
            if choice != b"null":
                members["tool_choice"] = _encode(_choice(_any.decode(choice)))
        members["messages"] = _encode(_with_tools(_messages.decode(members.get("messages", b"[]"))))
        return Said(msgspec.structs.replace(request, body=rewrite.joined(members)))

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        if _CALLS not in answer:
            return answer
        told = _any.decode(answer)
        for choice in told["choices"]:
            _told(choice, choice["message"])
        return _encode(told)

    def writer(self, request: Request) -> Writer:
        return FunctionWriter()


def _read(functions: bytes) -> list[dict[str, Any]]:
    try:
        return _functions.decode(functions)
    except msgspec.ValidationError:
        raise InvalidRequest("'functions': expected a list of objects", param="functions") from None


def _choice(choice: Any) -> Any:
    """Return a choice in the words of tools."""
    if choice in ("none", "auto"):
        return choice
    if isinstance(choice, dict) and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise InvalidRequest("'function_call': expected none, auto or a name", param="function_call")


def _with_tools(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation with the calls of tools."""
    last: dict[str, str] = {}
    told: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        if message.get("role") == "function":
            name = message.get("name")
            if not isinstance(name, str) or name not in last:
                where = f"messages.{place}.name"
                raise InvalidRequest(f"{where!r}: no call before this result has this name", param=where)
            told.append({"role": "tool", "tool_call_id": last[name], "content": message.get("content")})
            continue
        call = message.get("function_call")
        if not call:
            told.append(message)
            continue
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            where = f"messages.{place}.function_call"
            raise InvalidRequest(f"{where!r}: expected an object with a name", param=where)
        number = last[call["name"]] = f"call_{place}"
        rest = {name: value for name, value in message.items() if name != "function_call"}
        told.append({**rest, "tool_calls": [{"id": number, "type": "function", "function": call}]})
    return told


def _told(choice: dict[str, Any], message: dict[str, Any]) -> None:
    """Have a message, or a piece of one, tell its first call in the older way."""
    calls = message.pop("tool_calls", None) or ()
    first = next((call for call in calls if not call.get("index")), None)
    if first is not None:
        message["function_call"] = first["function"]
    if choice.get("finish_reason") == "tool_calls":
        choice["finish_reason"] = "function_call"


class FunctionWriter(Writer):
    """Writes a stream in which a call is told in the older way."""

    def event(self, payload: bytes) -> bytes:
        if b"tool_calls" not in payload:
            return sse.encode(payload)
        told = _any.decode(payload)
        for choice in told["choices"]:
            _told(choice, choice["delta"])
        return sse.encode(_encode(told))

    def text(self, text: bytes) -> bytes:
        raise NotImplementedError("every event is read")

    def end(self, usage: Usage) -> bytes:
        return sse.encode(b"[DONE]")

"""Chats with OpenAI's older `functions` and `function_call`, for engines that know only the tools that replaced them.

Rules:
- A function is a tool, a choice of one the choice of that tool, a call of an earlier turn the only call of its message,
  and a `function` message the result of the last call of that name before it.
- There is one call in an answer, as in the older API: the first is kept, and the engine is asked for no more.
- Where tools are offered beside a history with such calls, the answer tells its calls as the client offered them.
- `functions` and `function_call` never reach such an engine. What they ask for without a function is nothing, or the
  client's mistake, as in OpenAI's API.
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
_OLDER = ("functions", "function_call")
_NOTHING = (b"null", b"[]")
_CHOICES = ("none", "auto")
_CALLS = b'"tool_calls"'

_any = msgspec.json.Decoder()
_object = msgspec.json.Decoder(dict[str, Any])
_messages = msgspec.json.Decoder(list[dict[str, Any]])
_functions = msgspec.json.Decoder(list[dict[str, Any]])
_encode = msgspec.json.encode


def used(request: Request) -> bool:
    """Tell whether a chat says anything in the older way, of its functions or of calls in its earlier turns."""
    if not any(sign in request.body for sign in _SIGNS):
        return False
    members = rewrite.members(request.body)
    if any(members.get(name, b"null") != b"null" for name in _OLDER):
        return True
    try:
        return any(map(_is_older, _messages.decode(members.get("messages", b"[]"))))
    except msgspec.ValidationError:
        return False


def _is_older(message: dict[str, Any]) -> bool:
    return message.get("role") == "function" or message.get("function_call") is not None


def _is_told_so(request: Request) -> bool:
    """Tell whether the calls of the answer are told in the older way: not where the client offers tools."""
    return rewrite.members(request.body).get("tools", b"null") in _NOTHING


class Functions(Codec):
    """The codec of such chats."""

    operation: ClassVar[Operation] = Operation.CHAT
    said_as: ClassVar[Operation] = Operation.CHAT

    def asked(self, request: Request) -> Said:
        members = rewrite.members(request.body)
        functions = members.pop("functions", b"null")
        choice = members.pop("function_call", b"null")
        if functions in _NOTHING:
            _check_choice(choice)
        else:
            if members.get("tools", b"null") not in _NOTHING:
                raise InvalidRequest("both 'functions' and 'tools' are given", param="functions")
            members["tools"] = _encode([{"type": "function", "function": each} for each in _read(functions)])
            members["parallel_tool_calls"] = b"false"
            if choice != b"null":
                members["tool_choice"] = _encode(_choice(_any.decode(choice)))
        members["messages"] = _encode(_with_tools(_turns(members.get("messages", b"[]"))))
        return Said(msgspec.structs.replace(request, body=rewrite.joined(members)))

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        if _CALLS not in answer or not _is_told_so(request):
            return answer
        return _told(answer, "message")

    def writer(self, request: Request) -> Writer:
        return FunctionWriter(_is_told_so(request))


def _turns(messages: bytes) -> list[dict[str, Any]]:
    try:
        return _messages.decode(messages)
    except msgspec.ValidationError:
        raise InvalidRequest("'messages': expected a list of objects", param="messages") from None


def _read(functions: bytes) -> list[dict[str, Any]]:
    try:
        return _functions.decode(functions)
    except msgspec.ValidationError:
        raise InvalidRequest("'functions': expected a list of objects", param="functions") from None


def _check_choice(choice: bytes) -> None:
    """Raise InvalidRequest where a function is chosen, or must be, of a chat that has none."""
    if choice != b"null" and _any.decode(choice) not in _CHOICES:
        raise InvalidRequest("'function_call': there are no 'functions'", param="function_call")


def _choice(choice: Any) -> Any:
    """Return a choice in the words of tools."""
    if choice in _CHOICES:
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
        if call is None:
            told.append(message)
            continue
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            where = f"messages.{place}.function_call"
            raise InvalidRequest(f"{where!r}: expected an object with a name", param=where)
        number = last[call["name"]] = f"call_{place}"
        rest = {name: value for name, value in message.items() if name != "function_call"}
        told.append({**rest, "tool_calls": [{"id": number, "type": "function", "function": call}]})
    return told


def _told(answer: bytes, part: str) -> bytes:
    """Return an answer, or an event of one, that tells the first call of each choice in the older way.

    `part` is the member of a choice with what is said. Raise ValueError or LookupError if it cannot be read.
    """
    told = _object.decode(answer)
    told["choices"] = choices = msgspec.convert(told["choices"], list[dict[str, Any]])
    for choice in choices:
        choice[part] = message = msgspec.convert(choice[part], dict[str, Any])
        calls = msgspec.convert(message.pop("tool_calls", None) or [], list[dict[str, Any]])
        first = next((call for call in calls if not call.get("index")), None)
        if first is not None:
            message["function_call"] = first["function"]
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"
    return _encode(told)


class FunctionWriter(Writer):
    """Writes a stream in which a call is told in the older way, unless the client offered tools."""

    def __init__(self, is_told_so: bool) -> None:
        super().__init__()
        self._is_told_so = is_told_so

    def event(self, payload: bytes) -> bytes:
        if not self._is_told_so or b"tool_calls" not in payload:
            return sse.encode(payload)
        return sse.encode(_told(payload, "delta"))

    def text(self, text: bytes) -> bytes:
        raise NotImplementedError("every event is read")

    def end(self, usage: Usage) -> bytes:
        return sse.encode(b"[DONE]")

"""Read TGI's answers: ids, stop strings, calls that were cut, and what it counts of the wrong generation.

Facts are those of TGI 3.3, tried on its own router with a scripted model.

Rules:
- TGI stops only where a token ends with the stop string, and leaves it in the text. It is cut off here; where it is
  inside a token the engine would go on, so it is left.
- With tools the model writes JSON by a grammar: `{"function": {"_name": ..., its arguments}}`. Where a limit or a stop
  string cuts it, and where it is `{}`, which the grammar allows too, TGI cannot read it and says so with status 422.
  That is an answer all the same: its text is in the error, its counts are not.
- Where the model takes none of the tools, a second generation gives the text. Reason, counts and log probabilities in a
  whole answer are those of the first; the header `x-generated-tokens` is of the second.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from backends.base import Engine, Headers, Request
from backends.dialect import cutting
from backends.dialect.chunks import Stamp, fresh_id
from backends.dialect.cutting import CuttingStream
from backends.dialect.shapes import Event
from backends.engines.tgi.asked import Wanted

_NO_ID, _NO_USAGE = b'"id":""', b',"usage":null}'


class ChatStream(CuttingStream):
    """Watches a stream of the Messages API, and gives it the id that TGI leaves empty."""

    __slots__ = ("_id",)

    def __init__(self, engine: Engine, request: Request, known_by: Stamp, todo: Wanted) -> None:
        super().__init__(engine, request, todo.stops)
        self._id = b'"id":' + msgspec.json.encode(known_by.id)

    def _public(self, event: bytes, said: Event) -> bytes:
        event = super()._public(event, said).replace(_NO_ID, self._id, 1)
        return event.replace(_NO_USAGE, b"}", 1) if self._strip_usage else event


def corrected(answer: dict[str, Any], todo: Wanted, new_id: str, headers: Headers) -> dict[str, Any]:
    """Return a whole answer as OpenAI's clients expect it; `new_id` is its id if TGI gave none.

    Raise TypeError, AttributeError or LookupError if it is no answer.
    """
    choices = answer["choices"]
    called = False
    for choice in choices:
        message = choice.get("message")
        calls = _corrected_calls(message) if isinstance(message, dict) else False
        called = called or calls
        holder, name = (choice, "text") if message is None else (message, "content")
        hit = False
        if isinstance(holder.get(name), str):
            holder[name], hit = cutting.cut(holder[name], todo.stops)
        if hit:
            choice["finish_reason"] = "stop"
        elif calls and choice.get("finish_reason") in ("stop", "eos_token"):
            choice["finish_reason"] = "tool_calls"
    if todo.tools and not called:
        _count_again(answer, todo, headers)
    in_order = sorted(choices, key=lambda choice: choice.get("index") or 0)
    return {**answer, "id": answer.get("id") or new_id, "choices": in_order}


def _corrected_calls(message: dict[str, Any]) -> bool:
    """Give the tool calls of a message ids of their own, which TGI does not; return whether it has any."""
    calls = message.get("tool_calls") or ()
    for call in calls:
        call["id"] = fresh_id("call")
        function = call.get("function")
        if isinstance(function, dict) and function.get("description", "") is None:
            del function["description"]
    if calls:
        message.setdefault("content", None)
    return bool(calls)


def _count_again(answer: dict[str, Any], todo: Wanted, headers: Headers) -> None:
    """Put the counts and the reason of the second generation into an answer without a call."""
    counted = {name: int(value) for name, value in headers if name in _COUNTS and value.isdigit()}
    if len(counted) < len(_COUNTS):
        return
    read, made = (counted[name] for name in _COUNTS)
    answer["usage"] = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    for choice in answer["choices"]:
        choice["logprobs"] = None
        if todo.most == made and choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "length"


_COUNTS = (b"x-prompt-tokens", b"x-generated-tokens")


# --- the text of an answer that TGI could not read

_UNREAD = re.compile(
    r"Failed to parse generated text: (EOF while parsing .*?|missing field `function`)"
    r' at line \d+ column \d+ "(.*)"\s*$',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]{1,6})\}|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
_NAMED = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,?\s*(.*)', re.DOTALL)


class _Unread(msgspec.Struct):
    error: str
    error_type: str = ""


_unread = msgspec.json.Decoder(_Unread)


def unread(body: bytes, todo: Wanted) -> dict[str, Any] | None:
    """Return the choice in an error about an answer that TGI could not read; None in any other error."""
    try:
        said = _unread.decode(body)
    except (ValueError, RecursionError):
        return None
    found = _UNREAD.search(said.error) if said.error_type == "tool_error" else None
    if found is None:
        return None
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    reason = "stop"
    if found[1].startswith("EOF"):
        text, hit = cutting.cut(_ESCAPE.sub(_unescaped, found[2]), todo.stops)
        reason = "stop" if hit else "length"
        if (named := _NAMED.match(text)) is not None:
            function = {"name": _name(named[1]), "arguments": "{" + named[2]}
            call = {"id": fresh_id("call"), "type": "function", "function": function}
            message |= {"content": None, "tool_calls": [call]}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


def _unescaped(found: re.Match[str]) -> str:
    """Return the character of an escape, as Rust writes texts for its developers."""
    code = int(found[1] or "0", 16)
    return chr(code) if found[1] and code <= 0x10FFFF else _ESCAPED.get(found[2] or "", found[2] or "\ufffd")


def _name(written: str) -> str:
    """Return a name that is written in JSON."""
    try:
        return str(msgspec.json.decode(f'"{written}"'))
    except ValueError:
        return written

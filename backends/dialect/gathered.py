"""Turn a stream into one whole answer, for engines that are asked for a stream although the client wants none.

Rules:
- Pure: the bytes of a stream in (whole events, as a decoder returns them), the bytes of the whole answer out.
- Texts and sound are joined, lists of log probabilities are concatenated, and tool calls are assembled by their index;
  one of another id and name at the same index is another call. For any other member the last value that is not empty
  counts, so that members the gateway does not know are kept.
- An answer that its limit has cut is an answer: of a tool's arguments what can be read is kept.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.dialect import partial
from backends.framing import sse

Members = dict[str, Any]

_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text", "arguments"})
"""Members whose pieces are joined to one text."""
_OF_SOUND = frozenset({"data", "transcript"})
"""The same within `audio`; `data` is base64."""
_SEPARATOR = b"\n\n"

_member = msgspec.json.Decoder(Members)


def whole(request: Request, stream: bytes, now: float) -> bytes:
    """Return the answer that a stream adds up to. Raise ValueError if it is no answer.

    `now` is in seconds since 1970: the time of its completion, where the engine tells none.
    """
    gather = _GATHERERS.get(request.operation)
    if gather is None:
        return completion(request.operation, stream)
    answer = gather(_payloads(stream))
    if answer.get("object") == "response" and answer.get("status") == "completed":
        answer = {"completed_at": int(now)} | answer
    return msgspec.json.encode(answer)


def completion(operation: Operation, stream: bytes) -> bytes:
    """Return the chat completion or completion of a stream. Raise ValueError if it has no choices."""
    whole: Members = {}
    choices: dict[int, Members] = {}
    for event in _payloads(stream):
        for choice in event.pop("choices", None) or ():
            _add(choices.setdefault(choice.get("index") or 0, {}), choice)
        whole.update({name: value for name, value in event.items() if value is not None})
    if not choices:
        raise ValueError("the engine's stream has no choices")
    chat = operation is Operation.CHAT
    whole["object"] = "chat.completion" if chat else "text_completion"
    whole["choices"] = [_message(choices[index]) if chat else choices[index] for index in sorted(choices)]
    return msgspec.json.encode(whole)


def _payloads(stream: bytes) -> Iterable[Members]:
    """Decode the events of a stream, except `[DONE]`."""
    for event in stream.split(_SEPARATOR):
        payload = event[6:] if event.startswith(b"data: ") else sse.payload(event)
        if payload and payload != b"[DONE]":
            yield _member.decode(payload)


def _response(events: Iterable[Members]) -> Members:
    """Return the response, which the last event contains as a whole."""
    for event in events:
        if event.get("type") in ("response.completed", "response.incomplete"):
            return dict(event["response"])
    raise ValueError("the engine's stream has no response")


def _infill(events: Iterable[Members]) -> Members:
    """Return an infill: each event has a piece of its text, the last one everything else."""
    text = []
    last: Members = {}
    for last in events:
        text.append(last.get("content") or "")
    return {**last, "content": "".join(text)}


def _anthropic(events: Iterable[Members]) -> Members:
    """Return an Anthropic message: one event begins each of its blocks, others continue it."""
    message: Members = {}
    blocks: dict[int, Members] = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                message = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                _continue(blocks.setdefault(event["index"], {"type": "text"}), event["delta"])
            case "message_delta":
                usage = {**(message.get("usage") or {}), **(event.get("usage") or {})}
                message |= {**event["delta"], "usage": usage}
    if not message:
        raise ValueError("the engine's stream has no message")
    return {**message, "content": [_closed(blocks[index]) for index in sorted(blocks)]}


def _continue(block: Members, delta: Members) -> None:
    """Add an event's delta to a block of an Anthropic message."""
    for name, value in delta.items():
        if name == "citation":
            block["citations"] = [*(block.get("citations") or ()), value]
        elif name != "type":
            block[name] = (block.get(name) or "") + value


def _closed(block: Members) -> Members:
    """Return a finished block; the input of a tool arrives as pieces of JSON and is decoded here."""
    pieces = block.pop("partial_json", None)
    return {**block, "input": partial.readable(pieces) or {}} if pieces else block


_GATHERERS: Mapping[Operation, Callable[[Iterable[Members]], Members]] = {
    Operation.RESPONSES: _response,
    Operation.INFILL: _infill,
    Operation.MESSAGES: _anthropic,
}


def _add(known: Members, piece: Members, texts: frozenset[str] = _TEXTS) -> None:
    """Merge a piece of a choice into what earlier events said of it; `texts` are the members to be joined."""
    for name, value in piece.items():
        before = known.get(name)
        if before is None and isinstance(value, dict):
            before = known[name] = {}
        if name == "tool_calls" and isinstance(value, list):
            known[name] = before or []
            for place, call in enumerate(value):
                _add_call(known[name], {"index": place, **call})
        elif before is None:
            known[name] = value
        elif isinstance(before, str) and isinstance(value, str) and name in texts:
            known[name] = _joined(before, value) if name == "data" else before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _add(before, value, _OF_SOUND if name == "audio" else _TEXTS)
        elif isinstance(before, list) and isinstance(value, list):
            before.extend(value)
        elif value not in (None, ""):
            known[name] = value


def _add_call(calls: list[Members], piece: Members) -> None:
    """Merge a piece of a tool call into the last call at its index, or begin another one."""
    known = next((call for call in reversed(calls) if call["index"] == piece["index"]), None)
    if known is None or _is_another(known, piece):
        known = {}
        calls.append(known)
    _add(known, piece)


def _is_another(known: Members, piece: Members) -> bool:
    """Return whether a piece begins a call other than `known`; engines repeat ids, or give each piece a new one."""
    named = (piece.get("function") or {}).get("name")
    return bool(named and known.get("id") and piece.get("id")) and piece["id"] != known["id"]


def _joined(first: str, second: str) -> str:
    """Return the base64 of two pieces of data, each of which may have an end of its own."""
    if first.endswith("="):
        with contextlib.suppress(ValueError):
            return base64.b64encode(base64.b64decode(first) + base64.b64decode(second)).decode()
    return first + second


def _message(choice: Members) -> Members:
    """Return a choice of a chat completion, with its merged deltas as a message."""
    message = {"role": "assistant", "content": None, **choice.pop("delta", {})}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [
            _without_index(call) for call in sorted(calls, key=lambda call: call["index"])
        ]
    return {**choice, "message": message}


def _without_index(call: Members) -> Members:
    return {name: value for name, value in call.items() if name != "index"}

"""Turn a stream into one whole answer, for engines that are asked for a stream although the client wants none.

Rules:
- Pure: the bytes of a stream in (whole events, as a decoder returns them), the bytes of the whole answer out.
- Texts are joined, lists of log probabilities are concatenated, and tool calls are assembled by their index. For any
  other member the last value counts, so that members the gateway does not know are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from backends.base import Operation
from backends.framing import sse

Members = dict[str, Any]

_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text", "arguments"})
"""Members whose pieces are joined to one text."""
_SEPARATOR = b"\n\n"

_member = msgspec.json.Decoder(Members)


def whole(operation: Operation, stream: bytes) -> bytes:
    """Return the answer that a stream adds up to. Raise ValueError if it is no answer."""
    gather = _GATHERERS.get(operation)
    return completion(operation, stream) if gather is None else msgspec.json.encode(gather(_payloads(stream)))


def completion(operation: Operation, stream: bytes) -> bytes:
    """Return the chat completion or completion of a stream. Raise ValueError if it has no choices."""
    whole: Members = {}
    choices: dict[int, Members] = {}
    for event in _payloads(stream):
        for choice in event.pop("choices", None) or ():
            _add(choices.setdefault(choice.get("index", 0), {}), choice)
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
    return {**block, "input": msgspec.json.decode(pieces)} if pieces else block


_GATHERERS: Mapping[Operation, Callable[[Iterable[Members]], Members]] = {
    Operation.RESPONSES: _response,
    Operation.INFILL: _infill,
    Operation.MESSAGES: _anthropic,
}


def _add(known: Members, piece: Members) -> None:
    """Merge a piece of a choice into what earlier events said of it."""
    for name, value in piece.items():
        before = known.get(name)
        if before is None and isinstance(value, dict):
            before = known[name] = {}
        if name == "tool_calls" and isinstance(value, list):
            calls = known[name] = before or {}
            for index, call in _by_index(value).items():
                _add(calls.setdefault(index, {}), call)
        elif before is None:
            known[name] = value
        elif isinstance(before, str) and isinstance(value, str) and name in _TEXTS:
            known[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _add(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            before.extend(value)
        elif value is not None:
            known[name] = value


def _by_index(calls: list[Members]) -> dict[int, Members]:
    return {call.get("index", place): dict(call) for place, call in enumerate(calls)}


def _message(choice: Members) -> Members:
    """Return a choice of a chat completion, with its merged deltas as a message."""
    message = {"role": "assistant", "content": None, **choice.pop("delta", {})}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [_without_index(calls[index]) for index in sorted(calls)]
    return {**choice, "message": message}


def _without_index(call: Members) -> Members:
    return {name: value for name, value in call.items() if name != "index"}

"""A stream as one whole answer: for clients that did not ask for a stream, of engines that are better asked for one.

Rules:
- Pure: the bytes of a stream in (whole events, as a decoder gives them out), the bytes of the whole answer out.
- Pieces of text are joined, lists of log probabilities are put one after the other, tool calls are put together by
  their index; of everything else the last word counts, so that what the gateway does not know comes along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from backends.base import Operation
from backends.framing import sse

Members = dict[str, Any]

_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text", "arguments"})
"""Members whose pieces make one text."""
_SEPARATOR = b"\n\n"

_member = msgspec.json.Decoder(Members)


def whole(operation: Operation, stream: bytes) -> bytes:
    """The answer that a stream adds up to. Raises ValueError where it is none."""
    gather = _GATHERERS.get(operation)
    return completion(operation, stream) if gather is None else msgspec.json.encode(gather(_payloads(stream)))


def completion(operation: Operation, stream: bytes) -> bytes:
    """The chat completion or completion that a stream adds up to. Raises ValueError where it holds no choices."""
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
    for event in stream.split(_SEPARATOR):
        payload = event[6:] if event.startswith(b"data: ") else sse.payload(event)
        if payload and payload != b"[DONE]":
            yield _member.decode(payload)


def _response(events: Iterable[Members]) -> Members:
    """The last event of a response holds all of it."""
    for event in events:
        if event.get("type") in ("response.completed", "response.incomplete"):
            return dict(event["response"])
    raise ValueError("the engine's stream has no response")


def _infill(events: Iterable[Members]) -> Members:
    """Each event has a piece of the text, the last one everything else."""
    text = []
    last: Members = {}
    for last in events:
        text.append(last.get("content") or "")
    return {**last, "content": "".join(text)}


def _anthropic(events: Iterable[Members]) -> Members:
    """A message: its blocks by their index, each begun by one event and continued by others."""
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
    for name, value in delta.items():
        if name == "citation":
            block["citations"] = [*(block.get("citations") or ()), value]
        elif name != "type":
            block[name] = (block.get(name) or "") + value


def _closed(block: Members) -> Members:
    """A tool's input comes as pieces of JSON."""
    pieces = block.pop("partial_json", None)
    return {**block, "input": msgspec.json.decode(pieces)} if pieces else block


_GATHERERS: Mapping[Operation, Callable[[Iterable[Members]], Members]] = {
    Operation.RESPONSES: _response,
    Operation.INFILL: _infill,
    Operation.MESSAGES: _anthropic,
}


def _add(known: Members, piece: Members) -> None:
    """Add what a later event says to what the earlier ones said."""
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
    """A choice of a chat completion: what were deltas is a message."""
    message = {"role": "assistant", "content": None, **choice.pop("delta", {})}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [_without_index(calls[index]) for index in sorted(calls)]
    return {**choice, "message": message}


def _without_index(call: Members) -> Members:
    return {name: value for name, value in call.items() if name != "index"}

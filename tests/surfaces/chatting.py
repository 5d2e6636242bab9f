"""Chat streams and answers as engines send them, for tests of codecs: made here, read by the real decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends import registry
from backends.base import Engine, Operation, Reply, Request
from backends.framing import sse
from backends.surfaces.codecs import translated
from backends.surfaces.translation import Translation

ENGINE = registry.create("openai")
NATIVE = frozenset({Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS})


def translation(operation: Operation, body: dict[str, Any], engine: Engine = ENGINE) -> Translation:
    """Return how a client's request is said to an engine that has nothing but OpenAI's oldest operations."""
    request = Request(operation, msgspec.json.encode(body), body["model"], stream=bool(body.get("stream")))
    found = translated(request, engine, NATIVE)
    assert found is not None
    return found


def said(operation: Operation, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body that the engine gets."""
    found: dict[str, Any] = msgspec.json.decode(translation(operation, body).said.body)
    return found


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return one event of a chat stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "up",
        "choices": [choice],
    }


def counted(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    """Return the event of a chat stream that holds the counts."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "up",
        "choices": [],
        "usage": usage,
    }


def stream(events: Sequence[dict[str, Any]], done: bool = True) -> bytes:
    """Return a chat stream."""
    parts = [sse.encode(msgspec.json.encode(event)) for event in events]
    return b"".join([*parts, b"data: [DONE]\n\n" if done else b""])


def streamed(found: Translation, data: bytes, size: int = 1 << 20) -> bytes:
    """Return what the client gets for a stream that arrives in pieces of `size` bytes."""
    decoder = found.decoder(ENGINE.decoder(found.said, "up"))
    parts = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    parts.append(decoder.close())
    assert decoder.failure is None, decoder.failure
    return b"".join(parts)


def events(data: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream whose events have names, which are their types."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        name, _, payload = block.partition("\n")
        event: dict[str, Any] = msgspec.json.decode(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def pieces(data: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream whose events have no names."""
    blocks = data.split(b"\n\n")
    assert blocks.pop() == b""
    return [msgspec.json.decode(block.removeprefix(b"data: ")) for block in blocks]


def answered(found: Translation, answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the client gets for the engine's whole answer to what was translated."""
    read = ENGINE.reply(found.said, "up", (), msgspec.json.encode(answer))
    assert isinstance(read, Reply), read
    reply = found.reply(read)
    assert isinstance(reply, Reply), reply
    made: dict[str, Any] = msgspec.json.decode(reply.body)
    return made


def whole(
    operation: Operation,
    body: dict[str, Any],
    message: dict[str, Any],
    finish: str = "stop",
    usage: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what the client gets for a whole chat completion with this message."""
    found = translation(operation, body)
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    answer: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "up"}
    answer |= {"choices": [choice]} | ({} if usage is None else {"usage": usage})
    return answered(found, answer)

"""Calls of tools that an engine without a parser writes into its text stay text: the gateway guesses nothing."""

from typing import Any

import msgspec
import pytest

from backends.base import Operation, Reply, Request
from backends.dialect.openai import OpenAICompatible
from backends.registry import create, engine, names

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SAID = [
    '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
    '[TOOL_CALLS][{"name": "f", "arguments": {}}]',
    '{"name": "f", "parameters": {"x": 1}}',
    "<|python_tag|>f.call(x=1)",
]
_OWN = ("ollama", "triton")
"""Engines whose answers have a form of their own."""
ENGINES = [name for name in names() if issubclass(engine(name), OpenAICompatible) and name not in _OWN]


def asked(stream: bool) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "stream": stream}
    return Request(Operation.CHAT, msgspec.json.encode(body), "m", stream=stream)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("said", SAID)
def test_a_whole_answer(name: str, said: str) -> None:
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = msgspec.json.encode({"id": "1", "object": "chat.completion", "model": "own", "choices": [choice]})
    reply = create(name).reply(asked(stream=False), "own", [], body)
    assert isinstance(reply, Reply)
    (told,) = msgspec.json.decode(reply.body)["choices"]
    assert (told["message"]["content"], told["finish_reason"]) == (said, "stop")
    assert not told["message"].get("tool_calls")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("said", SAID)
def test_a_stream(name: str, said: str) -> None:
    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        whole = {"id": "1", "object": "chat.completion.chunk", "model": "own", "choices": [choice]}
        return b"data: " + msgspec.json.encode(whole) + b"\n\n"

    decoder = create(name).decoder(asked(stream=True), "own")
    pieces = [said[at : at + 7] for at in range(0, len(said), 7)]
    out = decoder.feed(event({"role": "assistant", "content": ""}))
    out += b"".join(decoder.feed(event({"content": piece})) for piece in pieces)
    out += decoder.feed(event({}, "stop")) + decoder.feed(b"data: [DONE]\n\n") + decoder.close()
    assert decoder.failure is None and decoder.finished
    told = [part.removeprefix(b"data: ") for part in out.split(b"\n\n") if part and b"[DONE]" not in part]
    choices = [choice for part in told for choice in msgspec.json.decode(part)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == said
    assert not any(choice["delta"].get("tool_calls") for choice in choices)

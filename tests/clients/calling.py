"""A fake engine that speaks only OpenAI's chat and calls tools, and the config of a gateway in front of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.fake.engine import FakeEngine
from gateway.keys import hash_key

CHAT = "/v1/chat/completions"
COUNTS = {"prompt_tokens": 100, "completion_tokens": 9, "total_tokens": 109}


def chunks(*deltas: dict[str, Any], reason: str) -> Iterator[Any]:
    """Yield a stream as OpenAI's API has it."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    for delta in deltas:
        yield about | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield about | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    yield about | {
        "choices": [],
        "usage": COUNTS,
    }
    yield "[DONE]"


def call(name: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """Yield a stream that thinks, says a word and calls a tool, whose arguments come in two pieces."""
    text = json.dumps(arguments)
    begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in (text[:9], text[9:])]
    thought = {"role": "assistant", "reasoning_content": "There is a file."}
    said = {"content": "I look."}
    return chunks(thought, said, *[{"tool_calls": [each]} for each in (begin, *pieces)], reason="tool_calls")


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer that says a word and calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    message = {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "There is a file.",
        "tool_calls": calls,
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    about = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake"}
    return about | {"choices": [choice], "usage": COUNTS}


def config(engine: FakeEngine, model: str = "m", key: str = "") -> str:
    """Return the config of a gateway in front of the engine; with a key, only who has it may ask."""
    keys = f'keys: {{tests: {{hash: "{hash_key(key)}"}}}}' if key else ""
    return f"""
{keys}
backends:
  a:
    engine: openai
    url: "{engine.url}"
    native: {{messages: false, count_tokens: false, responses: false}}
models:
  {model}: {{targets: {{a: fake}}}}
"""

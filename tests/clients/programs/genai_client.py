"""The Rust crate `genai`, which reads answers into typed structures, in the package that makes it Python's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from genai_pyo3 import (
    AuthData,
    ChatMessage,
    ChatOptions,
    ChatRequest,
    Client,
    JsonSpec,
    ModelIden,
    ServiceTarget,
    Tool,
)

LOOP = asyncio.new_event_loop()
ADAPTERS = {
    "chat": ("openai", "/v1/"),
    "responses": ("openai_resp", "/v1/"),
    "messages": ("anthropic", "/v1/"),
    "ollama": ("ollama", "/"),
}
CHOICE = {
    "type": "object",
    "properties": {"engine": {"type": "string", "enum": ["vllm", "ollama"]}, "gpu": {"type": "boolean"}},
    "required": ["engine", "gpu"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = Tool("get_weather", "Tell the weather of a city.", CITY)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return LOOP.run_until_complete(work)


def checks(way: Way) -> Checks:
    adapter, path = ADAPTERS[way.dialect]
    place, auth = way.url + path, AuthData.key(way.key)
    target = ServiceTarget(place, auth, ModelIden(adapter, way.model))
    client = Client()
    if way.dialect == "ollama":
        # This adapter knows of no keys.
        client = Client.builder().default_headers({"authorization": f"Bearer {way.key}"}).build()

    async def ask(text: str, tools: Any = None, **options: Any) -> Any:
        request = ChatRequest(messages=[ChatMessage("user", text)], tools=tools)
        return await client.achat(target, request, ChatOptions(max_tokens=200, **options))

    async def events(text: str, tools: Any = None) -> list[Any]:
        request = ChatRequest(messages=[ChatMessage("user", text)], tools=tools)
        options = ChatOptions(max_tokens=200, capture_usage=True, capture_tool_calls=True)
        return [event async for event in await client.astream_chat(target, request, options)]

    def called(calls: Any) -> Any:
        [call] = calls
        return [call.fn_name, json.loads(call.fn_arguments_json)]

    def streamed() -> list[str]:
        found = run(events(HELLO))
        assert found[-1].kind == "end" and found[-1].end.captured_usage.completion_tokens > 0
        return [event.content for event in found if event.kind == "chunk"]

    async def models() -> list[str]:
        return await client.aall_model_names(adapter, endpoint=place, auth=auth)

    return {
        "whole answer": lambda: run(ask(HELLO)).text,
        "stream": streamed,
        "tool call": lambda: called(run(ask(WEATHER, [TOOL])).tool_calls),
        "streamed tool call": lambda: called(run(events(WEATHER, [TOOL]))[-1].end.captured_tool_calls),
        "structured answer": lambda: json.loads(
            run(ask(CHOOSE, response_json_spec=JsonSpec("choice", CHOICE))).text
        ),
        "model list": lambda: run(models()),
    }


tell(checks)

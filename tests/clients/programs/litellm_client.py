"""LiteLLM as a client: its providers for OpenAI's chat, its Responses, Anthropic's API and Ollama's."""

from __future__ import annotations

import json
from typing import Any, Literal

import litellm
from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


PROVIDERS = {
    "chat": ("openai/", "/v1"),
    "responses": ("openai/", "/v1"),
    "messages": ("anthropic/", ""),
    "ollama": ("ollama_chat/", ""),
}


def checks(way: Way) -> Checks:
    provider, path = PROVIDERS[way.dialect]
    where: Any = {"model": provider + way.model, "api_base": way.url + path, "api_key": way.key}
    where |= {"num_retries": 0, "max_retries": 0}

    def ask(text: str, **more: Any) -> Any:
        return litellm.completion(
            messages=[{"role": "user", "content": text}], max_tokens=200, **where, **more
        )

    def respond(**more: Any) -> Any:
        return litellm.responses(input=HELLO, **where, **more)

    def streamed(**more: Any) -> list[str]:
        chunks = [chunk for chunk in ask(HELLO, stream=True, **more) if chunk.choices]
        return [chunk.choices[0].delta.content or "" for chunk in chunks]

    def called(message: Any) -> Any:
        [call] = message.tool_calls
        return [call.function.name, json.loads(call.function.arguments)]

    def streamed_call() -> Any:
        chunks = list(ask(WEATHER, tools=[TOOL], stream=True))
        whole: Any = litellm.stream_chunk_builder(chunks)
        return called(whole.choices[0].message)

    def chosen(text: str) -> Any:
        return json.loads(ask(text, response_format=Choice).choices[0].message.content)

    if way.dialect == "responses":
        return {
            "whole answer": lambda: respond().output_text,
            "stream": lambda: [
                event.delta for event in respond(stream=True) if event.type == "response.output_text.delta"
            ],
        }
    return {
        "whole answer": lambda: ask(HELLO).choices[0].message.content,
        "stream": streamed,
        "tool call": lambda: called(ask(WEATHER, tools=[TOOL]).choices[0].message),
        "streamed tool call": streamed_call,
        "structured answer": lambda: chosen(CHOOSE),
        "structured answer by a tool": lambda: chosen(f"{CHOOSE} Do it by json_tool_call."),
    }


tell(checks)

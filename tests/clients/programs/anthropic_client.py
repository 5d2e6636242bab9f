"""Anthropic's own SDK for Python."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from pydantic import BaseModel

TOOL: Any = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def checks(way: Way) -> Checks:
    client = anthropic.Anthropic(base_url=way.url, api_key=way.key, max_retries=0)

    def asked(text: str) -> Any:
        return {"model": way.model, "max_tokens": 200, "messages": [{"role": "user", "content": text}]}

    def called(message: Any) -> Any:
        [call] = [block for block in message.content if block.type == "tool_use"]
        return [call.name, call.input]

    def streamed() -> list[str]:
        with client.messages.stream(**asked(HELLO)) as stream:
            return list(stream.text_stream)

    def streamed_call() -> Any:
        with client.messages.stream(**asked(WEATHER), tools=[TOOL]) as stream:
            return called(stream.get_final_message())

    def structured() -> Any:
        parsed: Any = client.messages.parse(**asked(CHOOSE), output_format=Choice).parsed_output
        return parsed.model_dump()

    return {
        "whole answer": lambda: client.messages.create(**asked(HELLO)).content[-1].text,
        "stream": streamed,
        "tool call": lambda: called(client.messages.create(**asked(WEATHER), tools=[TOOL])),
        "streamed tool call": streamed_call,
        "structured answer": structured,
        "model list": lambda: [model.id for model in client.models.list()],
    }


tell(checks)

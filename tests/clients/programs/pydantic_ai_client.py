"""Pydantic AI's agents, over its three models: OpenAI's chat, its Responses, Anthropic's Messages."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Literal

from checks import CHOOSE, HELLO, SUNNY, WEATHER, Checks, Way, tell
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

LOOP = asyncio.new_event_loop()
BY_TOOL = f"{CHOOSE} Do it by final_result."


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return LOOP.run_until_complete(work)


def model(way: Way) -> Any:
    if way.dialect == "messages":
        return AnthropicModel(way.model, provider=AnthropicProvider(base_url=way.url, api_key=way.key))
    kind = OpenAIChatModel if way.dialect == "chat" else OpenAIResponsesModel
    return kind(way.model, provider=OpenAIProvider(base_url=f"{way.url}/v1", api_key=way.key))


def checks(way: Way) -> Checks:
    seen: list[str] = []
    plain: Any = Agent(model(way), retries=0)
    calling: Any = Agent(model(way), retries=0)

    @calling.tool_plain
    def get_weather(city: str) -> str:
        seen.append(city)
        return SUNNY

    async def drained(_: Any, events: Any) -> None:
        async for _ in events:
            pass

    async def streamed(agent: Any, text: str) -> list[str]:
        async with agent.run_stream(text) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    def chosen(output: Any, text: str) -> Any:
        agent: Any = Agent(model(way), output_type=output, retries=0)
        return run(agent.run(text)).output.model_dump()

    return {
        "whole answer": lambda: run(plain.run(HELLO)).output,
        "stream": lambda: run(streamed(plain, HELLO)),
        "tool result": lambda: [run(calling.run(WEATHER)).output, *seen],
        "streamed tool result": lambda: [
            run(calling.run(WEATHER, event_stream_handler=drained)).output,
            *seen,
        ],
        "structured answer": lambda: chosen(NativeOutput(Choice), CHOOSE),
        "structured answer by a tool": lambda: chosen(Choice, BY_TOOL),
    }


tell(checks)

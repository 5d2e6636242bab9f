"""LangChain's class for Anthropic's API."""

from __future__ import annotations

from typing import Any, Literal

from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from langchain_anthropic import ChatAnthropic
from pydantic import BaseModel


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return city


def checks(way: Way) -> Checks:
    chat: Any = ChatAnthropic(
        model=way.model, base_url=way.url, api_key=way.key, max_retries=0, max_tokens=200, temperature=0
    )
    tools = chat.bind_tools([get_weather])

    def called(message: Any) -> Any:
        [call] = message.tool_calls
        return [call["name"], call["args"]]

    def streamed() -> Any:
        chunks = list(tools.stream(WEATHER))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return called(whole)

    return {
        "whole answer": lambda: chat.invoke(HELLO).text,
        "stream": lambda: [chunk.text for chunk in chat.stream(HELLO)],
        "tool call": lambda: called(tools.invoke(WEATHER)),
        "streamed tool call": streamed,
        "structured answer": lambda: (
            chat.with_structured_output(Choice, method="json_schema").invoke(CHOOSE).model_dump()
        ),
    }


tell(checks)

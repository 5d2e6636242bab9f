"""LangChain's class for OpenAI: chats and Responses."""

from __future__ import annotations

from typing import Any, Literal

from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return city


def checks(way: Way) -> Checks:
    where: Any = {"model": way.model, "base_url": f"{way.url}/v1", "api_key": way.key, "max_retries": 0}
    chat: Any = ChatOpenAI(**where, temperature=0, use_responses_api=way.dialect == "responses")
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

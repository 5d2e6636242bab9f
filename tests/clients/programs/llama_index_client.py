"""LlamaIndex's class for servers that speak OpenAI's API."""

from __future__ import annotations

from typing import Any, Literal

from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

BY_TOOL = f"{CHOOSE} Do it by Choice."


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return city


def checks(way: Way) -> Checks:
    model: Any = OpenAILike(
        model=way.model,
        api_base=f"{way.url}/v1",
        api_key=way.key,
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        temperature=0,
    )
    tool = FunctionTool.from_defaults(get_weather)

    def called(answer: Any) -> Any:
        [call] = model.get_tool_calls_from_response(answer)
        return [call.tool_name, call.tool_kwargs]

    def streamed_call() -> Any:
        return called(list(model.stream_chat_with_tools([tool], user_msg=WEATHER))[-1])

    def chosen() -> Any:
        asked = [ChatMessage(role="user", content=BY_TOOL)]
        return model.as_structured_llm(Choice).chat(asked).raw.model_dump()

    hello = [ChatMessage(role="user", content=HELLO)]
    return {
        "whole answer": lambda: model.chat(hello).message.content,
        "stream": lambda: [part.delta for part in model.stream_chat(hello)],
        "tool call": lambda: called(model.chat_with_tools([tool], user_msg=WEATHER)),
        "streamed tool call": streamed_call,
        "structured answer by a tool": chosen,
    }


tell(checks)

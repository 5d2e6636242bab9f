"""OpenAI's own SDK for Python: chats and Responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from pydantic import BaseModel

ABOUT: Any = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def chats(client: openai.OpenAI, model: str) -> Checks:
    tools: Any = [{"type": "function", "function": ABOUT}]

    def asked(text: str) -> Any:
        return {"model": model, "messages": [{"role": "user", "content": text}]}

    def create(text: str, **more: Any) -> Any:
        return client.chat.completions.create(**asked(text), **more)

    def called(answer: Any) -> Any:
        [call] = answer.choices[0].message.tool_calls
        return [call.function.name, json.loads(call.function.arguments)]

    def streamed_call() -> Any:
        with client.chat.completions.stream(**asked(WEATHER), tools=tools) as stream:
            return called(stream.get_final_completion())

    def parsed() -> Any:
        answer = client.chat.completions.parse(**asked(CHOOSE), response_format=Choice)
        found = answer.choices[0].message.parsed
        return found and found.model_dump()

    return {
        "whole answer": lambda: create(HELLO).choices[0].message.content,
        "stream": lambda: [chunk.choices[0].delta.content or "" for chunk in create(HELLO, stream=True)],
        "tool call": lambda: called(create(WEATHER, tools=tools)),
        "streamed tool call": streamed_call,
        "structured answer": parsed,
        "model list": lambda: [model.id for model in client.models.list()],
    }


def responses(client: openai.OpenAI, model: str) -> Checks:
    tools: Any = [{"type": "function", **ABOUT}]

    def create(text: str, **more: Any) -> Any:
        return client.responses.create(model=model, input=text, **more)

    def called(answer: Any) -> Any:
        [call] = [item for item in answer.output if item.type == "function_call"]
        return [call.name, json.loads(call.arguments)]

    def final(text: str, read: Callable[[Any], Any], **more: Any) -> Any:
        with client.responses.stream(model=model, input=text, **more) as stream:
            events = list(stream)
            return read([events, stream.get_final_response()])

    def pieces(read: Any) -> list[str]:
        events, answer = read
        found = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(found) == answer.output_text
        return found

    def parsed() -> Any:
        found = client.responses.parse(model=model, input=CHOOSE, text_format=Choice).output_parsed
        return found and found.model_dump()

    return {
        "whole answer": lambda: create(HELLO).output_text,
        "stream": lambda: final(HELLO, pieces),
        "tool call": lambda: called(create(WEATHER, tools=tools)),
        "streamed tool call": lambda: final(WEATHER, lambda read: called(read[1]), tools=tools),
        "structured answer": parsed,
    }


def checks(way: Way) -> Checks:
    client = openai.OpenAI(base_url=f"{way.url}/v1", api_key=way.key, max_retries=0)
    return (chats if way.dialect == "chat" else responses)(client, way.model)


tell(checks)

"""Google's own SDK for Python, with its plain client, its asynchronous one, and functions that it calls itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from checks import CHOOSE, HELLO, SUNNY, WEATHER, Checks, Way, tell
from google import genai
from google.genai import types
from pydantic import BaseModel


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="Tell the weather of a city.",
            parameters=types.Schema(
                type=types.Type.OBJECT,
                properties={"city": types.Schema(type=types.Type.STRING)},
                required=["city"],
            ),
        )
    ]
)
BY_HAND = types.AutomaticFunctionCallingConfig(disable=True)


def checks(way: Way) -> Checks:
    client = genai.Client(api_key=way.key, http_options=types.HttpOptions(base_url=way.url))
    limits = types.GenerateContentConfig(max_output_tokens=200, system_instruction="Answer.")
    offered = types.GenerateContentConfig(tools=[TOOL], automatic_function_calling=BY_HAND)

    def asked(text: str, config: types.GenerateContentConfig = limits) -> Any:
        return client.models.generate_content(model=way.model, contents=text, config=config)

    def called(calls: Any) -> Any:
        [call] = calls
        return [call.name, call.args]

    async def streamed_call() -> Any:
        pieces = await client.aio.models.generate_content_stream(
            model=way.model, contents=WEATHER, config=offered
        )
        return called([call async for piece in pieces for call in piece.function_calls or ()])

    def result() -> Any:
        cities = []

        def get_weather(city: str) -> str:
            """Tell the weather of a city."""
            cities.append(city)
            return SUNNY

        answer = asked(WEATHER, types.GenerateContentConfig(tools=[get_weather]))
        return [answer.text, *cities]

    def structured() -> Any:
        config = types.GenerateContentConfig(
            max_output_tokens=200, response_mime_type="application/json", response_schema=Choice
        )
        return json.loads(asked(CHOOSE, config).parsed.model_dump_json())

    async def whole() -> Any:
        answer = await client.aio.models.generate_content(model=way.model, contents=HELLO, config=limits)
        assert answer.usage_metadata.total_token_count > 0
        return answer.text

    def streamed() -> list[str]:
        found = client.models.generate_content_stream(model=way.model, contents=HELLO, config=limits)
        return [piece.text for piece in found]

    def embedded() -> list[int]:
        texts = ["What is a gateway?", "Which port?"]
        found = client.models.embed_content(model=way.model, contents=texts)
        return [len(one.values) for one in found.embeddings]

    return {
        "whole answer": lambda: asyncio.run(whole()),
        "stream": streamed,
        "tool call": lambda: called(asked(WEATHER, offered).function_calls),
        "streamed tool call": lambda: asyncio.run(streamed_call()),
        "tool result": result,
        "structured answer": structured,
        "model list": lambda: [model.name.removeprefix("models/") for model in client.models.list()],
        "token count": lambda: client.models.count_tokens(model=way.model, contents=HELLO).total_tokens,
        "embeddings": embedded,
    }


tell(checks)

"""Ollama's own client for Python."""

from __future__ import annotations

import json
from typing import Any, Literal

import ollama
from checks import CHOOSE, HELLO, WEATHER, Checks, Way, tell
from pydantic import BaseModel


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return city


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def checks(way: Way) -> Checks:
    client = ollama.Client(way.url, headers={"authorization": f"Bearer {way.key}"})

    def called(calls: Any) -> Any:
        [call] = calls
        return [call.function.name, dict(call.function.arguments)]

    def streamed() -> Any:
        parts = client.chat(way.model, said(WEATHER), tools=[get_weather], stream=True)
        return called([call for part in parts for call in part.message.tool_calls or ()])

    def structured() -> Any:
        answer = client.chat(way.model, said(CHOOSE), format=Choice.model_json_schema())
        return json.loads(answer.message.content or "")

    return {
        "whole answer": lambda: client.chat(way.model, said(HELLO)).message.content,
        "stream": lambda: [part.message.content for part in client.chat(way.model, said(HELLO), stream=True)],
        "tool call": lambda: called(
            client.chat(way.model, said(WEATHER), tools=[get_weather]).message.tool_calls
        ),
        "streamed tool call": streamed,
        "structured answer": structured,
        "model list": lambda: sorted(model.model or "" for model in client.list().models),
    }


tell(checks)

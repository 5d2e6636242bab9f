"""Instructor: answers that fit a Pydantic model, by a tool or by a schema, over OpenAI's SDK and over Anthropic's."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import instructor
import openai
from checks import CHOOSE, HELLO, Checks, Way, tell
from pydantic import BaseModel


class Choice(BaseModel):
    """A shape to answer in."""

    engine: Literal["vllm", "ollama"]
    gpu: bool


class Words(BaseModel):
    """Words of any length."""

    text: str


BY_TOOL = f"{CHOOSE} Do it by Choice."


def client(way: Way, mode: instructor.Mode) -> Any:
    if way.dialect == "messages":
        sdk = anthropic.Anthropic(base_url=way.url, api_key=way.key, max_retries=0)
        return instructor.from_anthropic(sdk, mode=mode)
    return instructor.from_openai(
        openai.OpenAI(base_url=f"{way.url}/v1", api_key=way.key, max_retries=0), mode=mode
    )


def checks(way: Way) -> Checks:
    tools = instructor.Mode.TOOLS
    limit = {"max_tokens": 200, "max_retries": 0}

    def asked(text: str) -> Any:
        return {"model": way.model, "messages": [{"role": "user", "content": text}], **limit}

    def chosen(text: str, mode: instructor.Mode) -> Any:
        return client(way, mode).chat.completions.create(response_model=Choice, **asked(text)).model_dump()

    def partial() -> Any:
        parts = client(way, tools).chat.completions.create_partial(response_model=Choice, **asked(BY_TOOL))
        return list(parts)[-1].model_dump()

    return {
        "whole answer": lambda: client(way, tools).chat.completions.create(
            response_model=Choice, **asked(HELLO)
        ),
        "structured answer": lambda: chosen(CHOOSE, instructor.Mode.JSON_SCHEMA),
        "structured answer by a tool": lambda: chosen(BY_TOOL, tools),
        "streamed structured answer": partial,
    }


tell(checks)

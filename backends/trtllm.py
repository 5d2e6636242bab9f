"""TensorRTLLM: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class TensorRTLLM(OpenAI):
    """TensorRTLLM's server."""

    name: ClassVar[str] = "tensorrt-llm"
    checked: ClassVar[str] = "not yet"

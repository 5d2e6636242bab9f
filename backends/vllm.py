"""VLLM: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class VLLM(OpenAI):
    """VLLM's server."""

    name: ClassVar[str] = "vllm"
    checked: ClassVar[str] = "not yet"

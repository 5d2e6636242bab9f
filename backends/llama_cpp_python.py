"""LlamaCppPython: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class LlamaCppPython(OpenAI):
    """LlamaCppPython's server."""

    name: ClassVar[str] = "llama-cpp-python"
    checked: ClassVar[str] = "not yet"

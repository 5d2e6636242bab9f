"""Ollama: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class Ollama(OpenAI):
    """Ollama's server."""

    name: ClassVar[str] = "ollama"
    checked: ClassVar[str] = "not yet"

"""Transformers: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class Transformers(OpenAI):
    """Transformers's server."""

    name: ClassVar[str] = "transformers"
    checked: ClassVar[str] = "not yet"

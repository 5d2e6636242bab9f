"""Triton: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class Triton(OpenAI):
    """Triton's server."""

    name: ClassVar[str] = "triton"
    checked: ClassVar[str] = "not yet"

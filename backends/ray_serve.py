"""RayServe: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class RayServe(OpenAI):
    """RayServe's server."""

    name: ClassVar[str] = "ray-serve"
    checked: ClassVar[str] = "not yet"

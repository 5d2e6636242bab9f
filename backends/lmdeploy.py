"""LMDeploy: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class LMDeploy(OpenAI):
    """LMDeploy's server."""

    name: ClassVar[str] = "lmdeploy"
    checked: ClassVar[str] = "not yet"

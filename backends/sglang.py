"""SGLang: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class SGLang(OpenAI):
    """SGLang's server."""

    name: ClassVar[str] = "sglang"
    checked: ClassVar[str] = "not yet"

"""TGI: to be described."""

from __future__ import annotations

from typing import ClassVar

from backends.openai import OpenAI


class TGI(OpenAI):
    """TGI's server."""

    name: ClassVar[str] = "tgi"
    checked: ClassVar[str] = "not yet"

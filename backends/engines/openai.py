"""Any server that speaks OpenAI's API, attached to by its URL."""

from __future__ import annotations

from typing import ClassVar

from backends.dialect.openai import OpenAICompatible
from backends.dialect.ranking import COHERES


class OpenAI(OpenAICompatible):
    """An OpenAI-compatible server about which nothing more is known."""

    name: ClassVar[str] = "openai"
    checked: ClassVar[str] = "OpenAI's API reference, and this gateway behind itself (run)"
    has_functions: ClassVar[bool] = True
    keeps: ClassVar[frozenset[str]] = frozenset(COHERES)

"""Which dialect the clients of each operation speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.base import OLLAMA, Operation
from backends.operation import GEMINI
from backends.surfaces.anthropic.surface import Anthropic
from backends.surfaces.gemini import paths
from backends.surfaces.gemini.surface import Gemini, GeminiList
from backends.surfaces.ollama.surface import Ollama
from backends.surfaces.openai import OPENAI, Responses, Speech
from backends.surfaces.realtime import Realtime
from backends.surfaces.surface import Surface

_ANTHROPIC: Final = Anthropic()
OLLAMA_API: Final = Ollama()
GEMINI_API: Final = Gemini()
GEMINI_LIST: Final = GeminiList()
"""Google's API where a stream is one list."""
SURFACES: Final[Mapping[Operation, Surface]] = {
    Operation.RESPONSES: Responses(),
    Operation.MESSAGES: _ANTHROPIC,
    Operation.COUNT_TOKENS: _ANTHROPIC,
    Operation.SPEECH: Speech(),
    Operation.REALTIME: Realtime(),
    **dict.fromkeys(OLLAMA, OLLAMA_API),
    **dict.fromkeys(GEMINI, GEMINI_API),
}
"""The client dialect of each operation that has its own. All others use plain OpenAI."""


def surface_of(operation: Operation) -> Surface:
    """Return the client dialect of an operation."""
    return SURFACES.get(operation, OPENAI)


def surface_at(path: str, version: bytes | str | None = None, google: bool = False) -> Surface:
    """Return the dialect of the clients that ask at a path, and which send this `anthropic-version`, if any.

    `google`: they send the header of Google's SDKs.
    """
    if path.startswith("/api/"):
        return OLLAMA_API
    if google or paths.is_of_google(path):
        return GEMINI_API
    return _ANTHROPIC if path.startswith("/v1/messages") else surface_by(version)


def surface_by(version: bytes | str | None) -> Surface:
    """Return the dialect of a client at a path that several APIs have; `version` is its header `anthropic-version`."""
    return OPENAI if version is None else _ANTHROPIC

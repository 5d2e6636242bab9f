"""How a model of a hub is called: `hf:ORG/NAME`, `hf:ORG/NAME:Q4_K_M`, `ms:ORG/NAME`, `ollama:NAME`.

Rules:
- Without a prefix, `ORG/NAME` is one of the Hugging Face hub.
- What follows the second colon chooses among GGUF files: a quantization, or a part of a file's name.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Hub(enum.StrEnum):
    """Where models come from."""

    HUGGING_FACE = "hf"
    MODEL_SCOPE = "ms"
    OLLAMA = "ollama"


_PREFIXES = {
    "hf": Hub.HUGGING_FACE,
    "huggingface": Hub.HUGGING_FACE,
    "ms": Hub.MODEL_SCOPE,
    "modelscope": Hub.MODEL_SCOPE,
    "ollama": Hub.OLLAMA,
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class HubError(Exception):
    """A hub does not do what is wanted. The message is one line for people."""


@dataclass(frozen=True, slots=True)
class Name:
    """A model of a hub."""

    hub: Hub
    repository: str
    """`ORG/NAME`; for Ollama, the model as it names it."""
    choice: str = ""
    """Which of its GGUF files: a quantization or a part of a name. Empty: the safetensors, or the usual GGUF."""

    def __str__(self) -> str:
        """Return the name as the commands and the config take it."""
        return f"{self.hub}:{self.repository}{':' if self.choice else ''}{self.choice}"


def parse(text: str) -> Name:
    """Return the model of a hub with this name. Raise HubError."""
    prefix, colon, rest = text.partition(":")
    hub = _PREFIXES.get(prefix.lower()) if colon else None
    if hub is None:
        hub, rest = Hub.HUGGING_FACE, text
    if hub is Hub.OLLAMA:
        if not rest:
            raise HubError("ollama: needs the name of a model, such as ollama:qwen3:8b")
        return Name(hub, rest)
    repository, _, choice = rest.partition(":")
    if not _REPOSITORY.fullmatch(repository):
        raise HubError(f"{text!r} is no model of a hub: write ORG/NAME, or hf:ORG/NAME:Q4_K_M")
    return Name(hub, repository, choice)

"""Servers that speak OpenAI's API at other paths, as data: a row of `PRESETS` is an engine of its own name.

Facts were read in November 2026: Docker Model Runner's source (`pkg/inference/scheduling/http_handler.go`), Lemonade's
source and specification (`docs/api/openai.md`), LM Studio's documentation (REST API v0, and the paths of OpenAI's and
Anthropic's APIs). None of the servers was run.

Rules:
- A row says where paths differ, what the server can do, and under which names its model list tells a context length.
  Whoever needs more than that is an engine, with a module.
- The URL of a backend is the server's bare address, without the paths that the row has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from backends.base import Call, ModelCard, Operation
from backends.dialect.openai import PATHS, OpenAICompatible
from backends.facts import cards

_WRITES = frozenset({Operation.CHAT, Operation.COMPLETIONS})


@dataclass(frozen=True, slots=True)
class Preset:
    """One server."""

    title: str
    """Where its facts are from."""
    operations: frozenset[Operation]
    below: str = ""
    """What stands before `/v1/` in its paths."""
    paths: Mapping[Operation, str] | None = None
    """Whole paths of operations that are called otherwise."""
    models: str = ""
    """The whole path of its model list, where it is not OpenAI's."""
    contexts: tuple[str, ...] = ("max_model_len",)
    """Members of a card that hold the context length; the first that is there counts."""


PRESETS: Mapping[str, Preset] = {
    "docker-model-runner": Preset(
        "Docker Model Runner's source",
        _WRITES
        | {
            *(Operation.EMBEDDINGS, Operation.RERANK, Operation.SCORE, Operation.IMAGES),
            *(Operation.MESSAGES, Operation.COUNT_TOKENS),
        },
        below="/engines",
        paths={Operation.RERANK: "/engines/rerank", Operation.SCORE: "/engines/score"},
    ),
    "lemonade": Preset(
        "Lemonade's source and documentation",
        _WRITES
        | {
            *(Operation.EMBEDDINGS, Operation.RERANK, Operation.RESPONSES, Operation.TRANSCRIPTIONS),
            *(Operation.SPEECH, Operation.IMAGES, Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS),
            Operation.MESSAGES,
        },
        below="/api",
        paths={Operation.RERANK: "/api/v1/reranking"},
        contexts=("context_length", "max_context_window"),
    ),
    "lmstudio": Preset(
        "LM Studio's documentation",
        _WRITES | {Operation.EMBEDDINGS, Operation.RESPONSES, Operation.MESSAGES},
        models="/api/v0/models",
        contexts=("loaded_context_length", "max_context_length"),
    ),
}


class PresetServer(OpenAICompatible):
    """A server of `PRESETS`."""

    preset: ClassVar[Preset]
    shortens: ClassVar[bool] = False

    def models(self) -> Call:
        return Call(self.preset.models or f"{self.preset.below}/v1/models", method="GET")

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        first, *others = [cards.openai(body, (name,)) for name in self.preset.contexts]
        for other in others:
            first = tuple(
                card if card.context is not None else second
                for card, second in zip(first, other, strict=True)
            )
        return first


def made(name: str) -> type[PresetServer]:
    """Return the engine of a row."""
    preset = PRESETS[name]
    paths = {operation: preset.below + PATHS[operation] for operation in preset.operations}
    members = {
        "name": name,
        "checked": f"{preset.title} (not run)",
        "operations": preset.operations,
        "paths": {**paths, **(preset.paths or {})},
        "preset": preset,
        "__doc__": f"The server of the preset `{name}`.",
        "__module__": __name__,
    }
    return type(f"Preset_{name}", (PresetServer,), members)

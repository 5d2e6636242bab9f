"""Ollama's requests and answers as the reference page shows them, for people and code generators.

Rules:
- Requests are not validated with these schemas, but by `backends.surfaces.ollama`. Every schema allows further fields.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Request(_Open):
    model: str = Field(description="A model or alias of `GET /api/tags`.")
    keep_alive: float | str | None = Field(
        None,
        description="How long the model stays in memory, in seconds or as `10m`; for engines that know it.",
    )


class _Written(_Request):
    stream: bool | None = Field(None, description="Answer with lines of JSON, as where it is left out.")
    options: dict[str, Any] | None = Field(
        None, description="Sampling, such as `temperature`, `num_predict`."
    )
    format: str | dict[str, Any] | None = Field(None, description="`json`, or a JSON schema.")
    think: bool | str | None = Field(None, description="`true`, `false`, `low`, `medium` or `high`.")


class ChatRequest(_Written):
    messages: list[dict[str, Any]] | None = Field(None, description="None load the model.")
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(_Written):
    prompt: str | None = Field(None, description="None loads the model.")
    suffix: str | None = None
    system: str | None = None
    images: list[str] | None = Field(None, description="In base64.")
    raw: bool | None = Field(None, description="Put no template around the prompt.")


class _Answer(_Open):
    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    total_duration: int | None = Field(None, description="All durations are in nanoseconds.")
    prompt_eval_count: int | None = None
    eval_count: int | None = None


class ChatAnswer(_Answer):
    message: dict[str, Any]


class GenerateAnswer(_Answer):
    response: str
    thinking: str | None = None


class EmbedRequest(_Request):
    input: str | list[str]
    dimensions: int | None = None


class EmbedAnswer(_Open):
    model: str
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None


class EmbeddingsRequest(_Request):
    prompt: str


class EmbeddingsAnswer(_Open):
    embedding: list[float]


class Model(_Open):
    name: str
    model: str
    modified_at: str | None = None
    size: int = Field(description="0: the gateway holds no files.")
    digest: str = Field(description="Of the name: the gateway holds no files.")
    details: dict[str, Any]
    capabilities: list[str] | None = None


class Models(_Open):
    models: list[Model]


class Version(_Open):
    version: str

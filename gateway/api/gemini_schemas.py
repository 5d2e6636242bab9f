"""Google's requests and answers as the reference page shows them, for people and code generators.

Rules:
- Requests are not validated with these schemas, but by `backends.surfaces.gemini`. Every schema allows further fields.
- A member may also be written with underscores (`system_instruction`), as in Google's own API.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Content(_Open):
    """A turn of a conversation."""

    role: str | None = Field(None, description="`user` or `model`.")
    parts: list[dict[str, Any]] = Field(
        description="`text`, `inlineData`, `functionCall`, `functionResponse`; thoughts have `thought: true`."
    )


class GenerateRequest(_Open):
    contents: list[Content]
    system_instruction: Content | None = Field(None, alias="systemInstruction")
    tools: list[dict[str, Any]] | None = Field(None, description="Those with `functionDeclarations`.")
    tool_config: dict[str, Any] | None = Field(
        alias="toolConfig", default=None, description="`functionCallingConfig` with `mode` AUTO, ANY or NONE."
    )
    generation_config: dict[str, Any] | None = Field(
        alias="generationConfig",
        default=None,
        description="Sampling, such as `temperature`, `maxOutputTokens`; `responseSchema`.",
    )


class GenerateAnswer(_Open):
    """A whole answer, or one piece of a streamed one."""

    candidates: list[dict[str, Any]]
    usage_metadata: dict[str, Any] | None = Field(None, alias="usageMetadata")
    model_version: str = Field(alias="modelVersion")
    response_id: str = Field(alias="responseId")


class CountRequest(_Open):
    contents: list[Content] | None = None
    generate_content_request: dict[str, Any] | None = Field(
        None, alias="generateContentRequest", description="Instead: a whole request."
    )


class CountAnswer(_Open):
    total_tokens: int = Field(alias="totalTokens")


class EmbedRequest(_Open):
    content: Content
    output_dimensionality: int | None = Field(None, alias="outputDimensionality")


class Embedding(_Open):
    values: list[float]


class EmbedAnswer(_Open):
    embedding: Embedding


class BatchEmbedRequest(_Open):
    requests: list[EmbedRequest]


class BatchEmbedAnswer(_Open):
    embeddings: list[Embedding]


class Model(_Open):
    name: str = Field(description="`models/` and the name.")
    display_name: str = Field(alias="displayName")
    input_token_limit: int | None = Field(None, alias="inputTokenLimit")
    supported_generation_methods: list[str] = Field(alias="supportedGenerationMethods")


class Models(_Open):
    models: list[Model]
    next_page_token: str | None = Field(None, alias="nextPageToken")

"""OpenAI's requests and answers as the reference page shows them, for people and code generators.

Rules:
- Requests are not validated with these schemas, but by `backends.surfaces`.
- Fields that are not listed are passed on unchanged, so every schema allows further ones.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class StreamOptions(_Open):
    include_usage: bool | None = Field(
        None, description="Send one more chunk with the token usage before `[DONE]`."
    )


class ChatMessage(_Open):
    role: str = Field(description="`system`, `developer`, `user`, `assistant` or `tool`.")
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _Sampling(_Open):
    model: str = Field(description="A model or alias of `GET /v1/models`.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None


class ChatCompletionRequest(_Sampling):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {"model": "demo", "messages": [{"role": "user", "content": "What is this gateway?"}]}
        },
    )


class CompletionRequest(_Sampling):
    prompt: str | list[str] | list[int] | list[list[int]] | None = Field(
        None, description="Needed, unless the engine takes `prompt_embeds`."
    )
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None


class EmbeddingRequest(_Open):
    model: str = Field(description="A model or alias of `GET /v1/models`.")
    input: str | list[str] | list[int] | list[list[int]] | None = Field(
        None, description="Either this or, for engines that take them, `messages`."
    )
    messages: list[ChatMessage] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


class Usage(_Open):
    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class ChatChoice(_Open):
    index: int
    message: ChatMessage
    finish_reason: str | None


class ChatCompletion(_Open):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class CompletionChoice(_Open):
    index: int
    text: str
    finish_reason: str | None


class Completion(_Open):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingItem(_Open):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(_Open):
    object: Literal["list"]
    model: str
    data: list[EmbeddingItem]
    usage: Usage | None = None


class _Request(_Open):
    model: str = Field(description="A model or alias of `GET /v1/models`.")


class ResponsesRequest(_Request):
    input: str | list[dict[str, Any]] | None = Field(
        None, description="Needed, unless there is a `previous_response_id`, `prompt` or `conversation`."
    )
    previous_response_id: str | None = None
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None


class TokensUsed(_Open):
    input_tokens: int
    output_tokens: int


class ResponsesAnswer(_Open):
    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: TokensUsed | None = None


class MessagesRequest(_Request):
    messages: list[dict[str, Any]]
    max_tokens: int | None = Field(None, description="Most engines need it.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    system: str | list[dict[str, Any]] | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None


class MessagesAnswer(_Open):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: TokensUsed | None = None


class CountTokensRequest(_Request):
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class CountTokensAnswer(_Open):
    input_tokens: int = Field(description="Tokens of the prompt that these messages make.")


class RerankRequest(_Request):
    query: str | dict[str, Any]
    documents: list[str | dict[str, Any]] | dict[str, Any] | None = Field(
        None, description="Needed, unless there are `texts`."
    )
    texts: list[str] | None = Field(
        None, description="The documents of a client of Text Embeddings Inference."
    )
    return_documents: bool | None = Field(None, description="Left out, as the engine does it.")
    return_text: bool | None = Field(None, description="The same beside `texts`; left out, no.")
    top_n: int | None = Field(None, description="How many of the best to answer; all where it is left out.")


class Ranked(_Open):
    index: int = Field(description="The document's index in the request.")
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankAnswer(_Open):
    model: str | None = None
    results: list[Ranked] = Field(description="The best first.")
    usage: dict[str, Any] | None = None


class ScoreRequest(_Request):
    text_1: str | list[str] | None = Field(
        None, description="Needed, unless the engine takes `queries`, `data_1` or `query`."
    )
    text_2: str | list[str] | None = None


class Scored(_Open):
    index: int
    object: Literal["score"]
    score: float


class ScoreAnswer(_Open):
    data: list[Scored]
    usage: dict[str, Any] | None = None


class TokenizeRequest(_Request):
    prompt: str | None = Field(None, description="Either this or `messages`.")
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeAnswer(_Open):
    count: int
    max_model_len: int | None = None
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(_Request):
    tokens: list[int]


class DetokenizeAnswer(_Open):
    prompt: str


class InfillRequest(_Request):
    input_prefix: str
    input_suffix: str
    input_extra: list[dict[str, Any]] | None = Field(
        None, description="Other files, as `filename` and `text`."
    )
    n_predict: int | None = None
    stream: bool | None = Field(None, description="Answer with server-sent events.")


class InfillAnswer(_Open):
    content: str
    stop: bool | None = None


class _Audio(_Request):
    file: bytes = Field(description="The recording.", json_schema_extra={"format": "binary"})
    prompt: str | None = None
    response_format: str | None = Field(None, description="`json`, `text`, `srt`, `verbose_json` or `vtt`.")
    temperature: float | None = None


class TranscriptionRequest(_Audio):
    language: str | None = None
    stream: bool | None = Field(None, description="Answer with server-sent events.")


class TranslationRequest(_Audio):
    pass


class TranscriptionAnswer(_Open):
    text: str


class SpeechRequest(_Request):
    input: str
    voice: str | dict[str, Any] | None = None
    response_format: str | None = Field(None, description="`mp3`, `opus`, `aac`, `flac`, `wav` or `pcm`.")
    stream_format: Literal["audio", "sse"] | None = None
    speed: float | None = None


class ImagesRequest(_Request):
    prompt: str
    n: int | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = Field(None, description="Answer with server-sent events.")


class ImageEditRequest(_Request):
    image: bytes | list[bytes] = Field(description="One picture, or several as `image[]`.")
    mask: bytes | None = None
    prompt: str | None = None
    n: int | None = None
    size: str | None = None
    stream: bool | None = Field(None, description="Answer with server-sent events.")


class ImageVariationRequest(_Request):
    image: bytes
    n: int | None = None
    size: str | None = None


class Picture(_Open):
    b64_json: str | None = None
    url: str | None = None


class ImagesAnswer(_Open):
    created: int | None = None
    data: list[Picture]


class ModelMeta(_Open):
    n_ctx: int


class ModelArchitecture(_Open):
    input_modalities: list[str]
    output_modalities: list[str]
    modality: str


class ModelInfo(_Open):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = Field(
        None, description="The model that it is made from, where the key may use that one."
    )
    context_length: int | None = Field(None, description="Longest prompt plus answer in tokens, if known.")
    max_model_len: int | None = Field(None, description="The same, as vLLM calls it.")
    max_context_length: int | None = Field(None, description="The same, as LM Studio calls it.")
    meta: ModelMeta | None = Field(None, description="The same, as llama.cpp has it.")
    state: Literal["loaded", "not-loaded"] = Field(
        "not-loaded", description="Whether some engine has the model in its memory, as far as is known."
    )
    type: Literal["llm", "vlm", "embeddings"] | None = None
    capabilities: list[Literal["completion", "tools", "vision", "embedding", "thinking", "insert"]] | None = (
        Field(None, description="What it can do, as far as the config says; so are all the following.")
    )
    architecture: ModelArchitecture | None = None
    supported_parameters: list[str] | None = None


class ModelList(_Open):
    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Status(BaseModel):
    status: str

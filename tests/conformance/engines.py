"""Every engine of the registry: how it is proven, and where it cannot do what a check asks for.

Rules:
- An engine is proven on the real thing where that runs here: in every test run (`Proof.HERE`), or by
  `make test-engines` (`Proof.ENGINES`), beside recordings, which every test run replays. Of an engine that needs a GPU
  its server runs, and a script is the model behind it (`Proof.SERVERS`). The others are replayed only.
- An engine with two ways to be spoken to has two rows; the second one's name is also that of its recordings.
- `instead` is a check the engine cannot satisfy: what the client sees in its place, which is tested, and why.
- What neither a recording nor a run shows is listed in `unproven.py`, with the reason.
- What only a recording can show although the engine is real (`replayed`) says why, too.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.conformance import shapes
from tests.serving import Answer


class Proof(enum.Enum):
    """What an engine's adapter is tried on."""

    HERE = "the real engine, in every run"
    ENGINES = "the real engine, by `make test-engines`; its recordings otherwise"
    SERVERS = "the real server with a scripted model, by `make test-engines`; its recordings otherwise"
    RECORDED = "replies recorded from the real server with a scripted model"
    RECORDINGS = "recordings, written from its source"


class Instead(NamedTuple):
    """What happens instead of what a check expects. `reads` looks at the answer to the check's request."""

    reads: Callable[[Answer], object]
    why: str


class Silent(NamedTuple):
    """Nobody listens while the check is made: the engine's port is closed."""

    why: str


@dataclass(frozen=True)
class Row:
    """One engine."""

    proof: Proof = Proof.RECORDINGS
    engine: str = ""
    """The engine's name, where the row has another one."""
    upstream: str = "demo"
    """The engine's name for the model that clients call `public`."""
    backend: str = ""
    """More members of the backend in the config file, in YAML's flow form."""
    instead: Mapping[str, Instead | Silent] = field(default_factory=dict)
    replayed: Mapping[str, str] = field(default_factory=dict)


def one_choice(answer: Answer) -> None:
    """`n` is not heard."""
    shapes.completion(answer)


def ignored(answer: Answer) -> None:
    """Expect an answer like any other: the field is ignored."""
    shapes.content(shapes.completion(answer))


def answered(answer: Answer) -> None:
    """Expect a stream like any other: the field is ignored."""
    assert shapes.streamed(answer).text


def nothing(answer: Answer) -> None:
    """There is nothing to be asked for."""


def not_supported(answer: Answer) -> None:
    shapes.error(answer, 400, "not_supported")


def rejected(answer: Answer) -> None:
    assert answer.status in (400, 422), answer.body[:500]
    assert answer.error["type"] == "invalid_request_error"


def broken_off(answer: Answer) -> None:
    shapes.error(answer, 502, "upstream_reset")


def any_name(answer: Answer) -> None:
    """Expect an answer under the name that the client gave: the engine does not look at the model's name."""
    assert answer.status == 200, answer.body[:500]
    assert answer.json()["model"] == "missing" and answer.json()["choices"][0]["message"]["content"]


def _no_pictures(why: str) -> dict[str, Instead]:
    """Return what happens instead on an engine that neither draws nor edits, and why."""
    names = ("images", "images_stream", "image_edits", "image_edits_stream", "image_variations")
    return dict.fromkeys(names, Instead(not_supported, why))


NO_TELLING = Silent("it does not listen before its model is loaded")
NEVER_FULL = Instead(ignored, "it lets any number of requests wait")
NO_SIGNALS = Instead(nothing, "it tells nothing of its load")
TOY_TOOLS = "nothing makes the demo model write a tool call"
TOY_RERANKER = "the demo model is no reranker"
TOY_INFILL = "the demo model has no tokens for the text between two others"
TOY_EARS = "the demo model does not hear"
NO_LISTENER = "no model that hears while one speaks was at hand; written from its source"
NO_DEVICE = "no engine that hears, speaks or draws was at hand; written from OpenAI's API reference"

ENGINES: dict[str, Row] = {
    "llama-cpp-python": Row(
        Proof.ENGINES,
        instead={
            "chat_stream_usage": Instead(answered, "it counts no tokens in streams"),
            "chat_n": Instead(not_supported, "it makes one choice for each request"),
            "chat_reasoning": Instead(ignored, "it does not tell reasoning apart"),
            "chat_reasoning_stream": Instead(answered, "it does not tell reasoning apart"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "model_missing": Instead(any_name, "it does not look at the name of the model"),
            "context_overflow_stream": Instead(rejected, "it ends the stream without a word of why"),
            "error_first_stream": Instead(rejected, "it ends the stream without a word of why"),
            "signals": NO_SIGNALS,
            "overloaded": NEVER_FULL,
            "health_loading": NO_TELLING,
            "health_down": Silent("it lists its models as long as it listens"),
        },
        replayed={"chat_json": "within a grammar of any JSON the demo model comes to no end here"},
    ),
    "llamacpp": Row(
        Proof.HERE,
        instead={
            "score": Instead(not_supported, "it has no scores for texts"),
            "model_missing": Instead(any_name, "it does not look at the name of the model"),
            "overloaded": NEVER_FULL,
            "health_down": Silent("it says 503 while it loads; one that is gone does not listen"),
        },
        replayed={
            "rerank": TOY_RERANKER,
            "infill": TOY_INFILL,
            "infill_stream": TOY_INFILL,
        },
    ),
    "lmdeploy": Row(
        Proof.SERVERS,
        instead={
            "embeddings": Instead(not_supported, "its embeddings are a stub"),
            "embeddings_list": Instead(not_supported, "its embeddings are a stub"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "overloaded": NEVER_FULL,
            "health_loading": NO_TELLING,
        },
    ),
    "ollama": Row(
        instead={
            "cut_in_call": Instead(not_supported, "it cannot be made to call a tool"),
            "cut_in_call_stream": Instead(not_supported, "it cannot be made to call a tool"),
            "messages_tools": Instead(not_supported, "it cannot be made to call a tool"),
            "messages_tools_stream": Instead(not_supported, "it cannot be made to call a tool"),
            "chat_n": Instead(not_supported, "it gives one answer to a request, whatever `n` says"),
            "chat_tools": Instead(not_supported, "it cannot be made to call a tool"),
            "chat_tools_stream": Instead(not_supported, "it cannot be made to call a tool"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "tokenize": Instead(not_supported, "it keeps its tokens to itself"),
            "images": Instead(not_supported, "only models for a runner of its own draw, which was not tried"),
            "image_edits": Instead(not_supported, "its edits take JSON, not OpenAI's form"),
            "health_loading": Silent("it is up at once; a model loads while its first request waits"),
            "health_down": Silent("one that is gone does not listen"),
        },
    ),
    "openai": Row(
        Proof.HERE,
        instead={
            "not_supported": Instead(nothing, "any operation of OpenAI's may be behind it"),
            "signals": NO_SIGNALS,
            "health_loading": Silent("what listens and does not answer is down, as far as anyone can tell"),
        },
        replayed={
            "rerank": TOY_RERANKER,
            "score": TOY_RERANKER,
            "infill": TOY_INFILL,
            "infill_stream": TOY_INFILL,
            "transcriptions": NO_DEVICE,
            "transcriptions_stream": NO_DEVICE,
            "translations": NO_DEVICE,
            "speech": NO_DEVICE,
            "speech_stream": NO_DEVICE,
            "images": NO_DEVICE,
            "images_stream": NO_DEVICE,
            "image_edits": NO_DEVICE,
            "image_edits_stream": NO_DEVICE,
            "image_variations": NO_DEVICE,
            "realtime": NO_DEVICE,
        },
    ),
    "ray-serve": Row(
        Proof.ENGINES,
        instead={
            "rerank": Instead(not_supported, "its applications have no reranker"),
            "refused": Instead(ignored, "it has no keys"),
        },
        replayed={
            "chat_tools": TOY_TOOLS,
            "chat_tools_stream": TOY_TOOLS,
            "score": TOY_RERANKER,
            "tokenize": "the application here passes on OpenAI's operations only",
            "detokenize": "the application here passes on OpenAI's operations only",
            "signals": "Ray Serve LLM tells them, through Ray's metrics agent; it needs GPUs",
        },
    ),
    "sglang": Row(
        Proof.SERVERS,
        instead={
            **_no_pictures("pictures are made by another server of it, for diffusion models"),
            "model_missing": Instead(any_name, "it does not look at the name of the model"),
            "health_down": Silent("it says 503 whenever it is not ready; one that is gone does not listen"),
        },
        replayed={
            "embeddings": "SGLang serves a model either for text or for vectors",
            "embeddings_list": "SGLang serves a model either for text or for vectors",
            "rerank": "SGLang serves a model either for text or for vectors",
            "score": "SGLang serves a model either for text or for vectors",
            "realtime": NO_LISTENER,
        },
    ),
    "tensorrt-llm": Row(
        instead={
            **_no_pictures("pictures are made by another server of it, for visual models"),
            "rerank": Instead(not_supported, "its reranker has no settled form yet"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "model_missing": Instead(any_name, "it does not look at the name of the model"),
            "overloaded": NEVER_FULL,
            "refused": Instead(ignored, "it has no keys"),
            "health_loading": NO_TELLING,
        },
    ),
    "tgi": Row(
        Proof.RECORDED,
        instead={
            "chat_n": Instead(not_supported, "it gives one answer to a request, whatever `n` says"),
            "chat_reasoning": Instead(ignored, "it does not tell reasoning apart"),
            "chat_reasoning_stream": Instead(answered, "it does not tell reasoning apart"),
            "embeddings": Instead(
                not_supported, "embeddings are another server's: text-embeddings-inference"
            ),
            "embeddings_list": Instead(not_supported, "embeddings are another server's"),
            "rerank": Instead(not_supported, "reranking is another server's: text-embeddings-inference"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "model_missing": Instead(any_name, "it does not look at the name of the model"),
            "health_loading": NO_TELLING,
        },
    ),
    "transformers": Row(
        Proof.ENGINES,
        upstream="models/demo",
        instead={
            "chat_n": Instead(not_supported, "it makes one choice for each request"),
            "chat_logprobs": Instead(not_supported, "it tells no log probabilities"),
            "chat_json": Instead(not_supported, "it cannot hold its answer to a format"),
            "chat_json_schema": Instead(not_supported, "it cannot hold its answer to a format"),
            "embeddings": Instead(not_supported, "it has no embeddings"),
            "embeddings_list": Instead(not_supported, "it has no embeddings"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "tokenize": Instead(not_supported, "it keeps its tokens to itself"),
            "context_overflow": Instead(ignored, "it computes beyond the model's context"),
            "context_overflow_stream": Instead(answered, "it computes beyond the model's context"),
            "signals": NO_SIGNALS,
            "overloaded": NEVER_FULL,
            "refused": Instead(ignored, "it has no keys"),
            "health_loading": NO_TELLING,
        },
        replayed={
            "chat_tools": TOY_TOOLS,
            "chat_tools_stream": TOY_TOOLS,
            "transcriptions": TOY_EARS,
            "transcriptions_stream": TOY_EARS,
        },
    ),
    "triton": Row(
        Proof.ENGINES,
        backend="options: {tokenizer: models/demo}",
        instead={
            "cut_in_call": Instead(not_supported, "it gives text; nobody reads tool calls out of it"),
            "cut_in_call_stream": Instead(not_supported, "it gives text; nobody reads tool calls out of it"),
            "chat_logprobs": Instead(not_supported, "its models tell them in forms of their own"),
            "chat_tools": Instead(not_supported, "it gives text; nobody reads tool calls out of it"),
            "chat_tools_stream": Instead(not_supported, "it gives text; nobody reads tool calls out of it"),
            "chat_tool_result": Instead(not_supported, "it gives text; nobody reads tool calls out of it"),
            "chat_reasoning": Instead(ignored, "it gives text; what the model thinks is part of it"),
            "chat_reasoning_stream": Instead(answered, "it gives text; what the model thinks is part of it"),
            "embeddings": Instead(not_supported, "its generate protocol has none"),
            "embeddings_list": Instead(not_supported, "its generate protocol has none"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "tokenize": Instead(not_supported, "its models keep their tokens to themselves"),
            "health_down": Silent("it lists its models as long as it listens"),
        },
        replayed={
            "chat_json": "the demo model behind Triton has no grammars; vLLM, whose tensors it has, does",
            "chat_json_schema": "the demo model behind Triton has no grammars; vLLM, whose tensors it has, does",
        },
    ),
    "triton-openai": Row(
        Proof.RECORDED,
        engine="triton",
        backend="options: {api: openai}",
        instead={
            "chat_n": Instead(not_supported, "it makes one choice for each request"),
            "chat_reasoning": Instead(ignored, "it does not tell reasoning apart"),
            "chat_reasoning_stream": Instead(answered, "it does not tell reasoning apart"),
            "error_first_stream": Instead(broken_off, "it breaks the stream off without a word of why"),
            "signals": Instead(nothing, "the vLLM backend tells nothing of its load since vLLM V1"),
            "chat_json": Instead(not_supported, "it keeps to a schema, not to JSON of any form"),
            "embeddings_list": Instead(not_supported, "it takes one input at a time"),
            "ollama_embed": Instead(not_supported, "it takes one input at a time"),
            "gemini_batch_embed": Instead(not_supported, "it takes one input at a time"),
            "rerank": Instead(not_supported, "it has no reranker"),
            "score": Instead(not_supported, "it has no scores for texts"),
            "tokenize": Instead(not_supported, "its models keep their tokens to themselves"),
            "health_loading": NO_TELLING,
            "health_down": Silent("it lists its models as long as it listens"),
        },
    ),
    "vllm": Row(
        Proof.ENGINES,
        instead={
            **_no_pictures("pictures are made by another server: vLLM-Omni"),
            "health_loading": NO_TELLING,
        },
        replayed={
            "chat_json": "within a grammar of any JSON the demo model comes to no end here",
            "chat_tools": TOY_TOOLS,
            "chat_tools_stream": TOY_TOOLS,
            "messages_tools": TOY_TOOLS,
            "messages_tools_stream": TOY_TOOLS,
            "embeddings": "vLLM serves a model either for text or for vectors",
            "embeddings_list": "vLLM serves a model either for text or for vectors",
            "rerank": TOY_RERANKER,
            "score": TOY_RERANKER,
            "signals": "it tells of adapters only when one was used, and the demo model has none",
            "realtime": NO_LISTENER,
        },
    ),
}

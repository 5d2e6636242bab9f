"""Servers that are rows of a table: their paths, their lists of models, and the docs that name them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Kind, ModelCard, Operation, Reply, Request
from backends.engines.presets import PRESETS
from backends.registry import create

DOCS = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
HELLO = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
RERANK = b'{"model":"m","query":"q","documents":["a"]}'


@pytest.mark.parametrize(
    ("name", "chat", "models"),
    [
        ("docker-model-runner", "/engines/v1/chat/completions", "/engines/v1/models"),
        ("lemonade", "/api/v1/chat/completions", "/api/v1/models"),
        ("lmstudio", "/v1/chat/completions", "/api/v0/models"),
    ],
)
def test_where_they_are_asked(name: str, chat: str, models: str) -> None:
    engine = create(name)
    call = engine.call(Request(Operation.CHAT, HELLO, "m"), "own")
    assert (call.path, msgspec.json.decode(call.body)["model"]) == (chat, "own")
    assert (engine.models().path, engine.health().path) == (models, models)


@pytest.mark.parametrize(
    ("name", "path"), [("lemonade", "/api/v1/reranking"), ("docker-model-runner", "/engines/rerank")]
)
def test_an_operation_may_have_another_path(name: str, path: str) -> None:
    assert create(name).call(Request(Operation.RERANK, RERANK, "m"), "own").path == path


def test_docker_model_runner_answers_messages_and_says_errors_as_plain_text() -> None:
    engine = create("docker-model-runner")
    call = engine.call(Request(Operation.MESSAGES, HELLO, "m"), "own")
    assert call.path == "/engines/v1/messages"
    missing = engine.failure(404, (), b"model not found\n")
    assert missing.kind is Kind.MISSING
    bad = engine.failure(400, (), b"model is required\n")
    assert (bad.kind, bad.message) == (Kind.REJECTED, "model is required")
    failed = engine.failure(500, (), b"unable to load runner: no such file\n")
    assert failed.kind is Kind.FAILED


def test_an_answer_is_read_as_openais() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = msgspec.json.encode({"model": "own", "choices": [choice]})
    for name in PRESETS:
        reply = create(name).reply(Request(Operation.CHAT, HELLO, "m"), "own", [], body)
        assert isinstance(reply, Reply) and msgspec.json.decode(reply.body)["model"] == "m"


def test_lm_studio_tells_context_lengths() -> None:
    listed: list[dict[str, Any]] = [
        {"id": "loaded", "state": "loaded", "loaded_context_length": 4096, "max_context_length": 32768},
        {"id": "idle", "state": "not-loaded", "max_context_length": 2048},
        {"id": "bare"},
    ]
    found = create("lmstudio").models_of(msgspec.json.encode({"object": "list", "data": listed}))
    assert found == (ModelCard("loaded", 4096), ModelCard("idle", 2048), ModelCard("bare"))


def test_lm_studio_lists_what_is_not_loaded_too() -> None:
    about = {"object": "model", "publisher": "someone", "quantization": "4bit", "state": "not-loaded"}
    listed = [
        about
        | {"id": "qwen2-vl-7b-instruct", "type": "vlm", "arch": "qwen2_vl", "max_context_length": 32768},
        about | {"id": "text-embedding-nomic", "type": "embeddings", "max_context_length": 2048},
    ]
    found = create("lmstudio").models_of(msgspec.json.encode({"object": "list", "data": listed}))
    assert found == (ModelCard("qwen2-vl-7b-instruct", 32768), ModelCard("text-embedding-nomic", 2048))


def test_lemonade_tells_context_lengths() -> None:
    about = {
        "object": "model",
        "created": 1,
        "owned_by": "lemonade",
        "recipe": "llamacpp",
        "downloaded": True,
    }
    listed: list[dict[str, Any]] = [
        about | {"id": "Qwen3-GGUF", "max_context_window": 40960, "context_length": 8192, "labels": ["chat"]},
        about | {"id": "Gemma-GGUF", "max_context_window": 131072, "labels": ["chat", "vision"]},
        about | {"id": "SD-Turbo", "labels": ["image"], "image_defaults": {"steps": 4}},
    ]
    found = create("lemonade").models_of(msgspec.json.encode({"object": "list", "data": listed}))
    assert found == (ModelCard("Qwen3-GGUF", 8192), ModelCard("Gemma-GGUF", 131072), ModelCard("SD-Turbo"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_docs_have_its_row(name: str) -> None:
    (row,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    told = {word.strip() for word in row.split("|")[4].split(",")}
    assert told == {operation.value for operation in PRESETS[name].operations}
    assert "not run" in create(name).checked

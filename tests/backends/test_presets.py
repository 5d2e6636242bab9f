"""Servers that are rows of a table: their paths, their lists of models, and the docs that name them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import ModelCard, Operation, Reply, Request
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


def test_an_operation_may_have_another_path() -> None:
    call = create("lemonade").call(Request(Operation.RERANK, RERANK, "m"), "own")
    assert call.path == "/api/v1/reranking"


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


@pytest.mark.parametrize("name", PRESETS)
def test_the_docs_have_its_row(name: str) -> None:
    (row,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    told = {word.strip() for word in row.split("|")[4].split(",")}
    assert told == {operation.value for operation in PRESETS[name].operations}
    assert "not run" in create(name).checked

"""The model list in the forms that clients know: contexts, abilities, whether it is loaded, and in natural order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from openai.types import Model
from pydantic import TypeAdapter

from backends.base import Health
from gateway.api.schemas import ModelList
from gateway.fake.engine import FakeEngine
from gateway.globs import natural
from tests.serving import Served, serving

CONFIG = """
backends: {{one: {{engine: openai, url: "{url}", models: [up]}}}}
models:
  Qwen-35B: {{targets: {{one: up}}, context: 4096, capabilities: {{tools: true, vision: false, reasoning: true}}}}
  qwen-9b: {{targets: {{one: up}}, aliases: [a10, A9], capabilities: {{vision: true, tools: false}}}}
  embedder: {{targets: {{one: up}}, context: 512, capabilities: {{embeddings: true}}}}
  thinks: {{targets: {{one: up}}, capabilities: {{embeddings: true, tools: true}}}}
  plain: {{targets: {{one: up}}}}
"""


async def cards(served: Served) -> dict[str, dict[str, Any]]:
    listed = (await served.get("/v1/models")).json()
    ModelList.model_validate(listed)
    for entry in listed["data"]:
        TypeAdapter(Model).validate_python(entry, strict=True)
        assert (await served.get(f"/v1/models/{entry['id']}")).json() == entry
    return {entry["id"]: entry for entry in listed["data"]}


async def test_what_the_list_says(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        found = await cards(served)
        assert list(found) == ["A9", "a10", "embedder", "plain", "qwen-9b", "Qwen-35B", "thinks"]
        every = {
            "object": "model",
            "created": found["plain"]["created"],
            "owned_by": "gateway",
            "state": "loaded",
        }
        assert found["plain"] == {"id": "plain", **every}
        assert found["Qwen-35B"] == {
            "id": "Qwen-35B",
            **every,
            "context_length": 4096,
            "max_model_len": 4096,
            "max_context_length": 4096,
            "meta": {"n_ctx": 4096},
            "type": "llm",
            "capabilities": ["completion", "tools", "thinking"],
            "architecture": {
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "modality": "text->text",
            },
            "supported_parameters": [
                *("max_tokens", "temperature", "top_p", "stop"),
                *("tools", "tool_choice", "reasoning", "include_reasoning"),
            ],
        }
        assert found["a10"] == found["qwen-9b"] | {"id": "a10"}
        assert found["a10"]["type"] == "vlm" and "tools" not in found["a10"]["supported_parameters"]
        assert found["a10"]["architecture"]["input_modalities"] == ["text", "image"]
        assert (found["embedder"]["type"], found["embedder"]["capabilities"]) == ("embeddings", ["embedding"])
        assert "supported_parameters" not in found["embedder"]
        assert found["thinks"]["capabilities"] == ["completion", "tools", "embedding"]


async def test_whether_a_model_is_loaded(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        backend, at = served.gateway.pool.backends["one"], asyncio.get_running_loop().time()

        async def state() -> str:
            return str((await served.get("/v1/models/plain")).json()["state"])

        assert await state() == "loaded"
        for names, expected in [(("other",), "not-loaded"), (("up",), "loaded"), (("up:latest",), "loaded")]:
            backend.load.take({"models": (1.0, 0.0)}, names, 0, at)
            assert await state() == expected
        backend.load.take({}, (), 0, at)
        assert await state() == "loaded"
        for health in (Health.DOWN, Health.LOADING, Health.ASLEEP):
            backend.note(health)
            assert await state() == "not-loaded"
        backend.note(Health.READY)


@pytest.mark.parametrize(
    "ordered",
    [
        ["qwen-9B", "Qwen-35B", "qwen-100b"],
        ["a", "A1", "a2", "a10", "B"],
        ["2", "10", "x"],
        ["gpt-4", "gpt-4o", "gpt-10"],
        ["m-1.5", "m-1.10"],
    ],
)
def test_natural_order(ordered: list[str]) -> None:
    backwards = list(reversed(ordered))
    backwards.sort(key=natural)
    assert backwards == ordered


def test_any_names_have_an_order() -> None:
    names = ["1", "a", "", "1a", "a1", "²", "٣", "1" * 40]
    backwards = list(reversed(names))
    backwards.sort(key=natural)
    assert sorted(names, key=natural) == backwards

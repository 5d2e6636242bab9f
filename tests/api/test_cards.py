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
from tests.api.asking import answering
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


TOLD: dict[str, list[dict[str, Any]]] = {
    "models": [
        {"name": "seer:latest", "capabilities": ["completion", "vision", "tools", "thinking", "brews"]}
    ]
}
TOLD["models"] += [{"name": "embed:latest", "capabilities": ["embedding"]}, {"name": "fill:1b"}]
TOLD["models"] += [{"name": "coder:1b", "capabilities": ["completion", "insert"]}]
ABLE = {
    "seer:latest": ["completion", "tools", "vision", "thinking"],
    "seer": ["completion", "tools", "vision", "thinking"],
    "embed:latest": ["embedding"],
    "embed": ["embedding"],
    "fill:1b": ["completion"],
    "coder:1b": ["completion", "insert"],
}


async def test_an_ollama_tells_what_its_models_can_do(tmp_path: Path) -> None:
    rules = [answering("/api/version", {"version": "0.33.0"}), answering("/api/tags", TOLD)]
    async with FakeEngine(rules=rules) as engine:
        backend = f'backends: {{one: {{engine: ollama, url: "{engine.url}"}}}}\n'
        async with serving(tmp_path, backend) as served:
            tags = {
                entry["name"]: entry["capabilities"]
                for entry in (await served.get("/api/tags")).json()["models"]
            }
            assert tags == ABLE
            for name, abilities in ABLE.items():
                shown = (await served.post("/api/show", {"model": name})).json()
                assert shown["capabilities"] == abilities
            found = await cards(served)
            assert (found["seer"]["type"], found["embed"]["type"]) == ("vlm", "embeddings")
            assert "capabilities" not in found["fill:1b"], "an older Ollama tells nothing"
            assert {one.path for one in engine.requests} <= {"/api/version", "/api/tags", "/api/ps"}
        models = "models:\n  m: {targets: {one: seer}, capabilities: {vision: false, tools: true}}\n"
        async with serving(tmp_path, backend + models) as served:
            (entry,) = (await served.get("/api/tags")).json()["models"]
            assert entry["capabilities"] == ["completion", "tools", "thinking"], (
                "the config's word counts more"
            )


async def test_several_ollamas_have_in_common_what_a_model_can_do(tmp_path: Path) -> None:
    alive = answering("/api/version", {"version": "0.33.0"})
    less = {"models": [{"name": "seer:latest", "capabilities": ["completion", "vision"]}]}
    async with (
        FakeEngine(rules=[alive, answering("/api/tags", TOLD)]) as one,
        FakeEngine(rules=[alive, answering("/api/tags", less)]) as two,
    ):
        text = f'backends:\n  one: {{engine: ollama, url: "{one.url}"}}\n  two: {{engine: ollama, url: "{two.url}"}}\n'
        async with serving(tmp_path, text + "models: {m: {targets: {one: seer, two: seer}}}\n") as served:
            (entry,) = (await served.get("/api/tags")).json()["models"]
            assert entry["capabilities"] == ["completion", "vision"]

"""The recipes in configs/recipes/: each is loaded, and sends requests where its words say."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from backends.base import Health, Operation, Request
from gateway.app import Gateway
from gateway.asked import Asked
from gateway.auth import ANYONE
from gateway.config.file import load
from gateway.routing.decision import Moment
from gateway.routing.explanation import explain

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs" / "recipes"
PAGE = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
NOW = 1000.0


class Case(NamedTuple):
    """One request to a recipe, and where it goes."""

    recipe: str
    body: dict[str, Any]
    rule: str | None
    models: list[str]
    """The models that may serve it, in the order of their turns."""
    key: str = ""
    down: tuple[str, ...] = ()
    """Backends that are down."""
    told: tuple[tuple[str, str, float], ...] = ()
    """What engines tell: backend, signal, value."""


LONG = {"prompt": "word " * 2000}
CASES = [
    Case("replicas", {"model": "gpt-4o-mini"}, None, ["qwen"]),
    Case("canary", {"model": "qwen", "user": "ann"}, "rollout", ["qwen"]),
    Case("big-prompts", {"model": "auto", **LONG}, "long", ["large"]),
    Case("big-prompts", {"model": "auto", "tools": [{"type": "function"}]}, "with-tools", ["large"]),
    Case("big-prompts", {"model": "auto", "prompt": "hi"}, "short", ["small", "large"]),
    Case("big-prompts", {"model": "small", **LONG}, None, ["small"]),
    Case("overflow", {"model": "qwen"}, "busy", ["qwen"], "web"),
    Case("overflow", {"model": "qwen"}, "busy", ["rented"], "web", told=(("gpu", "waiting", 10.0),)),
    Case("overflow", {"model": "qwen"}, "busy", ["rented"], "web", told=(("gpu", "kv_use", 0.95),)),
    Case("overflow", {"model": "qwen"}, "busy", ["qwen"], "medical", told=(("gpu", "waiting", 10.0),)),
    Case("laptop", {"model": "chat"}, "at-hand", ["big", "tiny"]),
    Case("laptop", {"model": "chat"}, "at-hand", ["tiny"], down=("box",)),
    Case("ab-test", {"model": "chat", "user": "ann@example.com"}, "staff", ["b"]),
    Case("ab-test", {"model": "chat", "user": "ann"}, "ab", ["b"]),
    Case("ab-test", {"model": "chat", "user": "cid"}, "ab", ["a"]),
    Case("priorities", {"model": "qwen"}, None, ["qwen"], "nightly"),
    Case("shadow", {"model": "qwen"}, "try-next", ["qwen"]),
    Case("persona", {"model": "librarian"}, None, ["librarian"]),
    Case("lora", {"model": "base", "metadata": {"tenant": "law-7"}}, "law-firms", ["legal", "base"]),
    Case("lora", {"model": "sql"}, None, ["sql", "base"]),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.recipe} {json.dumps(case.body)[:60]} {case.key}"
)
def test_a_recipe_does_what_it_says(case: Case) -> None:
    gateway = Gateway(load(RECIPES / f"{case.recipe}.yaml", {}), Random(1))
    for name, backend in gateway.pool.backends.items():
        backend.note(Health.DOWN if name in case.down else Health.READY)
        told = {signal: (value, 0.0) for where, signal, value in case.told if where == name}
        backend.load.take(told, (), 0, NOW)
    snapshot = gateway.core.snapshot
    caller = snapshot.keys.named(case.key) or ANYONE
    request = Request(Operation.COMPLETIONS, json.dumps(case.body).encode(), case.body["model"])
    found = explain(snapshot.router, Asked(request, {}, caller), Moment(NOW, 0.0, Random(1)))
    assert "error" not in found
    assert found["rule"] == case.rule
    assert list(dict.fromkeys(each["model"] for each in found["candidates"])) == case.models


def test_every_recipe_is_tried_and_described() -> None:
    there = {file.stem for file in RECIPES.glob("*.yaml")}
    assert there == {case.recipe for case in CASES}
    assert [name for name in sorted(there) if f"../configs/recipes/{name}.yaml" not in PAGE] == []

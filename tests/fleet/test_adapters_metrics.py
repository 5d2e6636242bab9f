"""What the metrics say of LoRA adapters: loads by result, unloads by reason, how long loads take, what is loaded."""

from __future__ import annotations

from pathlib import Path

from gateway.config import file
from gateway.fake.engine import FakeEngine
from tests.fleet.test_adapters import AGAIN, LOAD, LOADS, NONE, SAID, asked, text
from tests.fleet.test_adapters_llamacpp import HAS
from tests.serving import Served, serving

LOADED, COUNT = "gateway_adapter_loads_total", "gateway_adapter_load_duration_seconds_count"


def loads(served: Served, model: str) -> dict[str, float]:
    """Return how often an adapter was to be loaded, by result."""
    results = ("loaded", "there", "failed")
    found = {result: served.metric(LOADED, model=model, backend="one", result=result) for result in results}
    return {result: count for result, count in found.items() if count}


def is_loaded(served: Served, model: str) -> float:
    return served.metric("gateway_adapter_loaded", model=model, backend="one")


async def test_loads_and_unloads(tmp_path: Path) -> None:
    rules = [
        {"match": {"path": LOAD, "times": 1}, "reply": {"status": 400, "body": AGAIN}},
        {"match": {"path": LOAD, "times": 2}, "reply": {"status": 404, "body": NONE}},
        *LOADS,
        SAID,
    ]
    async with FakeEngine(models=["up"], rules=rules) as one, serving(tmp_path, text(one)) as served:
        assert (loads(served, "ada"), is_loaded(served, "ada")) == ({}, 0)
        assert (await asked(served, "ada")).status == 200
        assert (loads(served, "ada"), is_loaded(served, "ada")) == ({"there": 1}, 1)
        assert served.metric(COUNT, backend="one") == 0
        assert (await asked(served, "bob")).status == 503
        assert (loads(served, "bob"), is_loaded(served, "bob"), is_loaded(served, "ada")) == (
            {"failed": 1},
            0,
            0,
        )
        assert served.metric("gateway_adapter_unloads_total", model="ada", reason="room") == 1
        one.set(rules=[*LOADS, SAID])
        assert (await asked(served, "bob")).status == 200
        assert loads(served, "bob") == {"failed": 1, "loaded": 1}
        assert served.metric(COUNT, backend="one") == 1
        changed = tmp_path / "changed.yaml"
        changed.write_text(text(one).replace("/loras/bob", "/loras/bob-2"))
        served.gateway.apply(file.load(changed))
        assert (await asked(served, "bob")).status == 200
        assert served.metric("gateway_adapter_unloads_total", model="bob", reason="replaced") == 1


async def test_adapters_that_are_gone_from_the_config_are_gone_from_the_page(tmp_path: Path) -> None:
    there = {"match": {"path": "/lora-adapters"}, "reply": {"status": 200, "body": HAS}}
    async with FakeEngine(models=["up"], rules=[there, SAID]) as one:
        said = text(one, engine="llamacpp")
        async with serving(tmp_path, said) as served:
            assert (await asked(served, "ada")).status == 200
            assert (loads(served, "ada"), is_loaded(served, "ada"), is_loaded(served, "bob")) == (
                {"there": 1},
                1,
                1,
            )
            changed = tmp_path / "changed.yaml"
            changed.write_text(said.replace(", bob: /loras/bob", "").replace("/loras/ada", "/loras/eve"))
            served.gateway.apply(file.load(changed))
            assert (await asked(served, "ada")).status == 503
            page = "".join(served.gateway.metrics.pieces()).splitlines()
            assert (is_loaded(served, "ada"), loads(served, "ada")["failed"]) == (0, 1)
            shown = [line for line in page if line.startswith("gateway_adapter_loaded{")]
            assert shown == ['gateway_adapter_loaded{backend="one",model="ada"} 0.0']

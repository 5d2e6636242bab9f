"""LoRA adapters that the config declares: loaded for who asks, at fake engines that answer as vLLM and SGLang do.

The answers of vLLM are those that were recorded of vLLM 0.32 (`--enable-lora`, on a CPU); SGLang's are written from its
source (0.5).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.config.files import config, lines
from tests.serving import Answer, Served, serving

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SAID = {"say": "yes"}
LOADS = [
    {"match": {"path": LOAD}, "reply": {"status": 200, "body": "Success: LoRA adapter added successfully."}},
    {
        "match": {"path": UNLOAD},
        "reply": {"status": 200, "body": "Success: LoRA adapter removed successfully."},
    },
]
AGAIN = (
    '{"error":{"message":"The lora adapter \'ada\' has already been loaded. If you want to load the adapter in place, '
    'set \'load_inplace\' to True.","type":"InvalidUserInput","param":null,"code":400}}'
)
NONE = (
    '{"error":{"message":"Loading lora ada failed: No adapter found for adapters/none","type":"NotFoundError",'
    '"param":null,"code":404}}'
)
GONE = '{"error":{"message":"The model `ada` does not exist.","type":"NotFoundError","param":"model","code":404}}'
CONFIG = """
backends:
  one: {{engine: {engine}, url: "{one}", models: [up]}}
  two: {{engine: {engine}, url: "{two}", models: [up]}}
models:
  base:
    targets: {targets}
    system: Base.
    admission: {{concurrency: 8, queue: 9}}
    lora_slots: 1
    loras: {{ada: /loras/ada, bob: /loras/bob}}
  kid: {{from: ada, system: Kid.}}
  safe: {{from: ada, fallback: [base]}}
"""


def text(one: FakeEngine, two: FakeEngine | None = None, engine: str = "vllm") -> str:
    targets = "{one: up}" if two is None else "{one: up, two: up}"
    return CONFIG.format(engine=engine, one=one.url, two=(two or one).url, targets=targets)


async def asked(served: Served, model: str) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    return await served.post("/v1/chat/completions", body)


async def explained(served: Served, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    told: dict[str, Any] = (await served.post("/v1/route:explain", body)).json()
    return told


def did(engine: FakeEngine) -> list[str]:
    """Return what was asked of an engine, in order: adapters loaded and unloaded, and the models of chats."""
    found: list[str] = []
    for each in engine.requests:
        if each.path.endswith("load_lora_adapter"):
            sign = "-" if "unload" in each.path else "+"
            found.append(sign + str(each.json()["lora_name"]))
        elif each.path == "/v1/chat/completions":
            found.append(str(each.json()["model"]))
    return found


async def test_loaded_once_when_asked_for_and_the_last_used_makes_room(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[*LOADS, SAID]) as one, serving(tmp_path, text(one)) as served:
        told = await explained(served, "ada")
        assert told["backend_why"] == "it would wait for the adapter to be loaded first"
        assert told["candidates"][0]["against"] == "it has not loaded the adapter"
        answers = await asyncio.gather(*(asked(served, "ada") for _ in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        assert did(one) == ["+ada", "ada", "ada", "ada", "ada"]
        assert served.metric("gateway_hop_seconds_count", hop="load", model="ada") == 4
        load = next(each for each in one.requests if each.path == LOAD)
        assert load.json() == {"lora_name": "ada", "lora_path": "/loras/ada"}
        assert (await explained(served, "ada"))["backend"] == "one"
        assert (await asked(served, "bob")).status == 200
        assert (await asked(served, "kid")).status == 200
        assert did(one)[5:] == ["-ada", "+bob", "bob", "-bob", "+ada", "ada"]
        assert one.requests[-1].json()["messages"][0]["content"] == "Kid."
        assert served.metric("gateway_requests_total", model="bob") == 1
        found = {entry["id"]: entry for entry in (await served.get("/v1/models")).json()["data"]}
        assert {name: entry.get("parent") for name, entry in found.items()} == {
            "base": None,
            "ada": "base",
            "bob": "base",
            "kid": "ada",
            "safe": "ada",
        }
        assert (found["ada"]["state"], found["bob"]["state"]) == ("loaded", "not-loaded")


async def test_requests_under_way_are_over_before_their_adapter_goes(tmp_path: Path) -> None:
    slow = FakeEngine(models=["up"], rules=[*LOADS, SAID], defaults={"first_token": 0.2})
    async with slow as one, serving(tmp_path, text(one)) as served:
        first = asyncio.create_task(asked(served, "ada"))
        await one.until(lambda: did(one) == ["+ada", "ada"])
        second = asyncio.create_task(asked(served, "bob"))
        await asyncio.sleep(0.05)
        assert did(one) == ["+ada", "ada"]
        third = asyncio.create_task(asked(served, "ada"))
        assert [(await each).status for each in (first, second, third)] == [200] * 3
        assert did(one) == ["+ada", "ada", "-ada", "+bob", "bob", "-bob", "+ada", "ada"]


async def test_requests_go_where_it_is_loaded(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[*LOADS, SAID]) as one,
        FakeEngine(models=["up"], rules=[*LOADS, SAID]) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        for _ in range(3):
            for name in ("ada", "bob"):
                assert (await asked(served, name)).status == 200
        both = sorted([did(one), did(two)])
        assert both == [["+ada", "ada", "ada", "ada"], ["+bob", "bob", "bob", "bob"]]


async def test_a_load_that_fails(tmp_path: Path) -> None:
    """All who wait get the engine's reason, once; a persona with a fallback is served by that."""
    fails = {"match": {"path": LOAD}, "reply": {"status": 404, "body": NONE}}
    async with FakeEngine(models=["up"], rules=[fails, SAID]) as one, serving(tmp_path, text(one)) as served:
        answers = await asyncio.gather(*(asked(served, "ada") for _ in range(3)))
        assert did(one) == ["+ada"]
        for answer in answers:
            assert answer.status == 503 and answer.error["code"] == "adapter_not_loaded"
            assert "'one'" in answer.error["message"]
            assert "Loading lora ada failed: No adapter found for adapters/none" in answer.error["message"]
        answer = await asked(served, "safe")
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "base")


async def test_another_engine_where_one_cannot_load_it(tmp_path: Path) -> None:
    fails = {"match": {"path": LOAD}, "reply": {"status": 404, "body": NONE}}
    async with (
        FakeEngine(models=["up"], rules=[fails, SAID]) as one,
        FakeEngine(models=["up"], rules=[*LOADS, SAID]) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        assert (await asked(served, "ada")).status == 200
        assert did(two) == ["+ada", "ada"]


async def test_what_others_have_done_at_the_engine(tmp_path: Path) -> None:
    """An adapter that is there already counts as loaded; one that is gone is loaded anew, for the same request."""
    rules = [
        {"match": {"path": LOAD, "times": 1}, "reply": {"status": 400, "body": AGAIN}},
        *LOADS,
        {"match": {"model": "ada", "times": 1}, "reply": {"status": 404, "body": GONE}},
        SAID,
    ]
    async with FakeEngine(models=["up"], rules=rules) as one, serving(tmp_path, text(one)) as served:
        assert (await asked(served, "ada")).status == 200
        assert did(one) == ["+ada", "ada", "+ada", "ada"]


async def test_sglang(tmp_path: Path) -> None:
    """Its paths are others, its answers JSON, and requests name an adapter with its model."""
    done: dict[str, Any] = {"success": True, "error_message": "", "loaded_adapters": {}}
    rules = [
        {"match": {"path": "/load_lora_adapter"}, "reply": {"status": 200, "body": done}},
        {"match": {"path": "/unload_lora_adapter"}, "reply": {"status": 200, "body": done}},
        SAID,
    ]
    async with (
        FakeEngine(models=["up"], rules=rules) as one,
        serving(tmp_path, text(one, engine="sglang")) as served,
    ):
        for name in ("ada", "bob"):
            assert (await asked(served, name)).status == 200
        assert did(one) == ["+ada", "up:ada", "-ada", "+bob", "up:bob"]
        failed = {"success": False, "error_message": "no such folder", "loaded_adapters": {}}
        one.set(
            rules=[
                {"match": {"path": "/load_lora_adapter"}, "reply": {"status": 400, "body": failed}},
                *rules,
            ]
        )
        assert "no such folder" in (await asked(served, "ada")).error["message"]


async def test_an_engine_that_was_down_has_no_adapters(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[*LOADS, SAID]) as one, serving(tmp_path, text(one)) as served:
        assert (await asked(served, "ada")).status == 200
        await one.down()
        assert (await asked(served, "ada")).status in (502, 503)
        await one.up()
        backend = served.gateway.pool.backends["one"]
        async with asyncio.timeout(20):
            while not backend.ready:
                backend.woken.set()
                await asyncio.sleep(0.05)
        backend.reset_breaker()
        assert (await asked(served, "ada")).status == 200
        assert did(one)[-2:] == ["+ada", "ada"] and did(one).count("+ada") == 2


BACKENDS = """
backends:
  a: {engine: vllm, url: "http://h:1"}
  b: {engine: ollama, url: "http://h:2"}
  c: {engine: vllm, launch: {model: org/m}}
"""


def test_mistakes_in_the_config(tmp_path: Path) -> None:
    models = """models:
  m: {targets: {a: x, b: y}, loras: {ada: p, n: q}}
  n: {targets: {c: x}, loras: {bob: p, ada: r}}
  o: {targets: {a: x}, lora_slots: 2}
"""
    able = "llamacpp, sglang, vllm"
    assert lines(tmp_path, BACKENDS + models) == [
        f"7:30: the engine of backend 'b', ollama, has no adapters that requests can choose; these do: {able}",
        "7:46: 'n' is already a name of model 'n'",
        "8:24: backend 'c' must be launched with `lora_loading: true`",
        "8:40: 'ada' is already a name of model 'ada'",
        "9:24: 'lora_slots' says nothing without 'loras'",
    ]


def test_names_of_adapters_are_names_of_models(tmp_path: Path) -> None:
    models = """models:
  m: {targets: {a: x}, loras: {ada: p}, internal: true}
  n: {targets: {a: x}, fallback: [ada]}
keys: {k: {hash: "sha256:%s", models: [ada]}}
"""
    found = config(tmp_path, BACKENDS + models % ("0" * 64))
    assert found.models["ada"].internal and found.models["ada"].targets["a"].model == "ada"


@pytest.mark.parametrize(("engine", "name"), [("vllm", "ada"), ("sglang", "x:ada")])
def test_what_engines_call_an_adapter(engine: str, name: str, tmp_path: Path) -> None:
    models = "models: {m: {targets: {a: x}, loras: {ada: p}}}\n"
    found = config(tmp_path, BACKENDS.replace("a: {engine: vllm", f"a: {{engine: {engine}") + models)
    assert found.models["ada"].targets["a"].model == name

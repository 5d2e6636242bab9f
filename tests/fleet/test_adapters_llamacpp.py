"""LoRA adapters of llama.cpp, which has them from its start on: each request chooses, and none gets another one's.

The fake engine answers as the real one was seen to answer (b11549); the last tests run the real, embedded one with
adapters that change what the demo model says.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.engines.llamacpp.launch import LlamaCppLaunch
from gateway.fake.engine import FakeEngine
from tests import adapters
from tests.backends.test_llamacpp_runner import Server
from tests.config.files import config, lines
from tests.serving import Answer, Served, serving

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
HAS = [
    {"id": 0, "path": "/loras/bob.gguf", "scale": 1.0, "task_name": "", "prompt_prefix": ""},
    {"id": 1, "path": "/loras/ada.gguf", "scale": 1.0, "task_name": "", "prompt_prefix": ""},
]
LISTED = {"match": {"path": "/lora-adapters"}, "reply": {"status": 200, "body": HAS}}
NONE, BOB, ADA = ([{"id": 0, "scale": 0.0}], [{"id": 0, "scale": 1.0}], [{"id": 1, "scale": 1.0}])
CONFIG = """
backends:
  one: {{engine: llamacpp, url: "{one}", models: [up]}}
  two: {{engine: llamacpp, url: "{two}", models: [up]}}
models:
  base:
    targets: {targets}
    loras: {{ada: {ada}, bob: /loras/bob.gguf}}
  kid: {{from: ada, system: Kid.}}
  plain: {{from: base, system: Plain.}}
  other: {{targets: {{one: up}}}}
"""
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    "completions": ("/v1/completions", {"prompt": "x"}),
    "responses": ("/v1/responses", {"input": "x"}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
    "ollama": ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": False}),
}


def text(one: FakeEngine, two: FakeEngine | None = None, ada: str = "ada") -> str:
    targets = "{one: up}" if two is None else "{one: up, two: up}"
    return CONFIG.format(one=one.url, two=(two or one).url, targets=targets, ada=ada)


async def asked(served: Served, model: str, kind: str = "chat", **more: Any) -> Answer:
    path, body = BODIES[kind]
    return await served.post(path, {"model": model, **body, **more})


async def sent(engine: FakeEngine, served: Served, model: str, kind: str, **more: Any) -> dict[str, Any]:
    """Return what the engine was sent for a request, whatever it answered: it plays no Responses API."""
    before = len(engine.requests)
    await asked(served, model, kind, **more)
    assert len(engine.requests) > before
    body: dict[str, Any] = engine.requests[-1].json()
    return body


def chosen(engine: FakeEngine) -> Any:
    """Return what the last request chose."""
    return engine.requests[-1].json().get("lora")


@pytest.mark.parametrize("kind", BODIES)
async def test_each_request_chooses_by_the_number_that_the_engine_tells(kind: str, tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[LISTED]) as one, serving(tmp_path, text(one)) as served:
        for model, wanted in (("base", NONE), ("ada", ADA), ("bob", BOB), ("kid", ADA), ("plain", NONE)):
            body = await sent(one, served, model, kind)
            assert (body["lora"], body["cache_prompt"]) == (wanted, False), model
        assert {"lora", "cache_prompt"}.isdisjoint(await sent(one, served, "other", kind))
        assert not [each for each in one.requests if "load_lora" in each.path]


@pytest.mark.parametrize("kind", ["chat", "messages", "responses"])
async def test_what_a_client_chooses_itself_stays(kind: str, tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[LISTED]) as one, serving(tmp_path, text(one)) as served:
        own = [{"id": 1, "scale": 0.5}]
        for model in ("base", "bob"):
            assert (await sent(one, served, model, kind, lora=own))["lora"] == own


async def test_who_knows_that_the_engine_keeps_no_prompts_may_say_so(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[LISTED]) as one:
        said = text(one).replace("  kid: {", "  kid: {parameters: {default: {cache_prompt: true}}, ")
        async with serving(tmp_path, said) as served:
            body = await sent(one, served, "kid", "chat")
            assert (body["lora"], body["cache_prompt"]) == (ADA, True)


async def test_both_engines_are_used_once_they_have_told(tmp_path: Path) -> None:
    swapped = [{**HAS[1], "id": 0}, {**HAS[0], "id": 1}]
    there = {"match": {"path": "/lora-adapters"}, "reply": {"status": 200, "body": swapped}}
    async with (
        FakeEngine(models=["up"], rules=[LISTED], defaults={"first_token": 0.1}) as one,
        FakeEngine(models=["up"], rules=[there], defaults={"first_token": 0.1}) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        for _ in range(3):
            assert {
                answer.status for answer in await asyncio.gather(*(asked(served, "ada") for _ in range(6)))
            } == {200}
        assert (chosen(one), chosen(two)) == (ADA, BOB)


async def test_an_adapter_that_the_engine_does_not_have(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=[LISTED]) as one,
        serving(tmp_path, text(one, ada="eve")) as served,
    ):
        answer = await asked(served, "ada")
        assert (answer.status, answer.error["code"]) == (503, "adapter_not_loaded")
        assert (
            "without the adapter 'eve'; it has: /loras/bob.gguf, /loras/ada.gguf" in answer.error["message"]
        )
        assert (await asked(served, "bob")).status == 200
        now = [*HAS, {"id": 2, "path": "/loras/eve.gguf", "scale": 0.0}]
        one.set(rules=[{"match": {"path": "/lora-adapters"}, "reply": {"status": 200, "body": now}}])
        assert (await asked(served, "ada")).status == 200
        assert chosen(one) == [{"id": 2, "scale": 1.0}]


async def test_an_engine_that_starts_anew_is_asked_anew(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=[LISTED]) as one, serving(tmp_path, text(one)) as served:
        assert (await asked(served, "ada")).status == 200
        await one.down()
        assert (await asked(served, "ada")).status in (502, 503)
        one.set(
            rules=[
                {"match": {"path": "/lora-adapters"}, "reply": {"status": 200, "body": [{**HAS[1], "id": 7}]}}
            ]
        )
        await one.up()
        backend = served.gateway.pool.backends["one"]
        async with asyncio.timeout(20):
            while not backend.ready:
                backend.woken.set()
                await asyncio.sleep(0.05)
        backend.reset_breaker()
        assert (await asked(served, "ada")).status == 200
        assert chosen(one) == [{"id": 7, "scale": 1.0}]


async def test_embeddings_of_an_adapter_are_refused(tmp_path: Path) -> None:
    """llama.cpp would embed with the base model, without a word."""
    async with FakeEngine(models=["up"], rules=[LISTED]) as one, serving(tmp_path, text(one)) as served:
        for path, body in (("/v1/embeddings", {"input": "x"}), ("/api/embed", {"input": "x"})):
            answer = await served.post(path, {"model": "ada", **body})
            assert answer.status == 400, answer.body
            assert "to text that it writes only" in answer.body.decode()
            assert (await served.post(path, {"model": "base", **body})).status == 200


def test_adapters_are_given_to_the_engines_that_are_launched(tmp_path: Path) -> None:
    backends = """
backends:
  a: {engine: llamacpp, launch: {model: /m.gguf, lora: [/x.gguf]}}
  b: {engine: llamacpp, launch: {model: /m.gguf, prompt_cache: 1GiB}}
"""
    models = (
        "models: {m: {targets: {%s: m}, loras: {x: /x.gguf, y: /y.gguf}}, n: {from: m, loras: {z: z.gguf}}}\n"
    )
    found = config(tmp_path, backends + models % "a").backends["a"].launch
    assert isinstance(found, LlamaCppLaunch) and found.lora_on_request == (Path("/y.gguf"), Path("z.gguf"))
    assert lines(tmp_path, backends + models % "b") == [
        "5:31: backend 'b': 'prompt_cache' mixes up the prompts of adapters: leave it out",
        "5:78: backend 'b': 'prompt_cache' mixes up the prompts of adapters: leave it out",
    ]


QUESTIONS = ("What can you do?", "Which port does Ollama use?", "What is a fallback?")


async def answered(served: Served, model: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 12,
        "temperature": 0,
    }
    answer = await served.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return str(answer.json()["choices"][0]["message"]["content"])


async def told(served: Served) -> dict[tuple[str, str], Counter[str]]:
    """Return what each model says to each question, asked many times in a mixed order by several at once."""
    jobs = [(model, question) for model in ("base", "red", "blue") for question in QUESTIONS] * 6
    Random(5).shuffle(jobs)
    found: dict[tuple[str, str], Counter[str]] = {job: Counter() for job in jobs}

    async def worker() -> None:
        while jobs:
            job = jobs.pop()
            found[job][await answered(served, *job)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(worker())
    return found


def written(folder: Path) -> dict[str, str]:
    return {
        name: str(adapters.write(folder / f"{name}.gguf", seed)) for seed, name in enumerate(("red", "blue"))
    }


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_the_real_engine_gives_each_model_its_own_answers(tmp_path: Path) -> None:
    """Launched: the adapters change what the model says, each in its way, and never what another one says."""
    launch = {"model": str(MODEL), "name": "demo", "parallel": 3, "context": 512}
    alone = (
        f"backends: {{local: {{engine: llamacpp, launch: {json.dumps(launch)}}}}}\n"
        "models: {base: {targets: {local: demo}}}\n"
    )
    async with serving(tmp_path, alone) as served:
        without = {question: await answered(served, "base", question) for question in QUESTIONS}
    declared = alone.replace("local: demo}", f"local: demo}}, loras: {json.dumps(written(tmp_path))}")
    async with serving(tmp_path, declared) as served:
        found = await told(served)
        listed = {entry["id"]: entry for entry in (await served.get("/v1/models")).json()["data"]}
        assert (listed["red"]["parent"], listed["red"]["state"]) == ("base", "loaded")
        message = {
            "messages": [{"role": "user", "content": QUESTIONS[2]}],
            "max_tokens": 12,
            "temperature": 0,
        }
        said = (await served.post("/v1/messages", {"model": "red", **message})).json()["content"][0]["text"]
    assert all(len(each) == 1 for each in found.values()), found
    one = {job: next(iter(each)) for job, each in found.items()}
    for question in QUESTIONS:
        assert one["base", question] == without[question]
        assert len({one[model, question] for model in ("base", "red", "blue")}) == 3
    assert said == one["red", QUESTIONS[2]]


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_the_real_engine_elsewhere_that_keeps_prompts(tmp_path: Path) -> None:
    """By URL, started with both adapters at full strength and its cache of prompts: all the same."""
    engine = Server(lora=list(written(tmp_path).values()), parallel=3, context=512)
    config = (
        f'backends: {{far: {{engine: llamacpp, url: "http://127.0.0.1:{engine.port}"}}}}\n'
        "models: {base: {targets: {far: demo}, loras: {red: red, blue: blue.gguf}}}\n"
    )
    try:
        async with serving(tmp_path, config) as served:
            found = await told(served)
    finally:
        engine.end()
    assert all(len(each) == 1 for each in found.values()), found
    for question in QUESTIONS:
        assert len({next(iter(found[model, question])) for model in ("base", "red", "blue")}) == 3

"""Models that are made from others, from the config to the engine's socket: requests, lists, keys, rules and slots."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.serving import Served, serving

KEYS = {"ALL": "gw-all", "SOME": "gw-some"}
CONFIG = """
backends:
  one: {{engine: vllm, url: "{one}", models: [up]}}
  two: {{engine: openai, url: "{two}", models: [up]}}
models:
  base:
    targets: {{one: up}}
    fallback: [spare]
    admission: {{concurrency: 1, queue: 5}}
    system: Base.
    parameters: {{default: {{max_tokens: 7}}}}
  spare: {{targets: {{two: up}}}}
  pirate: {{from: base, system: Arr., parameters: {{set: {{temperature: 0.5}}}}}}
  styled: {{from: pirate, template: "{{{{ messages }}}}"}}
  hidden: {{from: base, internal: true}}
  led: {{from: hidden}}
routes:
- {{name: r, match: {{model: pirate, key_tag: some}}, to: spare}}
keys:
  all: {{value: "${{env.ALL}}"}}
  some: {{value: "${{env.SOME}}", models: ["pir*", led], tags: [some]}}
"""
SAYS = [{"say": "yes"}]


def text(one: FakeEngine, two: FakeEngine) -> str:
    """Return the config without what needs keys."""
    return CONFIG.format(one=one.url, two=two.url).partition("routes:")[0]


async def asked(served: Served, engine: FakeEngine, model: str, path: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], **more}
    answer = await served.post(path, body)
    assert answer.status == 200, answer.body
    said: dict[str, Any] = engine.requests[-1].json()
    return said


async def test_requests_metrics_and_fallback(tmp_path: Path) -> None:
    broken = [{"match": {"contains": "fail"}, "reply": {"status": 500}}, *SAYS]
    async with (
        FakeEngine(models=["up"], rules=broken) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        said = await asked(served, one, "pirate", "/v1/chat/completions")
        assert (said["model"], said["max_tokens"], said["temperature"]) == ("up", 7, 0.5)
        assert [message["content"] for message in said["messages"]] == ["Arr.", "x"]
        assert served.metric("gateway_requests_total", model="pirate") == 1
        assert served.metric("gateway_requests_total", model="base") == 0
        body = {"model": "pirate", "messages": [{"role": "user", "content": "x"}]}
        told = (await served.post("/v1/route:explain", body)).json()
        assert [each["model"] for each in told["candidates"]] == ["pirate", "spare"]
        body["messages"] = [{"role": "user", "content": "fail"}]
        answer = await served.post("/v1/chat/completions", body)
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "spare")


async def test_keys_and_rules_take_it_for_a_model(tmp_path: Path) -> None:
    """Who may not use the base is not told of it; a pattern of names and a rule fit the persona."""
    async with (
        FakeEngine(models=["up"], rules=SAYS) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, CONFIG.format(one=one.url, two=two.url), KEYS) as served,
    ):
        some = f"Bearer {KEYS['SOME']}"
        found = (await served.get("/v1/models", authorization=some)).json()["data"]
        assert [(entry["id"], entry.get("parent")) for entry in found] == [("led", None), ("pirate", None)]
        body = {"model": "pirate", "messages": [{"role": "user", "content": "x"}]}
        answer = await served.post("/v1/chat/completions", body, authorization=some)
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "spare")
        answer = await served.post("/v1/chat/completions", body | {"model": "base"}, authorization=some)
        assert answer.status == 404
        answer = await served.post("/v1/chat/completions", body, authorization=f"Bearer {KEYS['ALL']}")
        assert answer.headers["x-gateway-model"] == "pirate"


async def test_lists_name_the_parent_to_whoever_may_use_it(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=SAYS) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        found = {entry["id"]: entry for entry in (await served.get("/v1/models")).json()["data"]}
        assert set(found) == {"base", "spare", "pirate", "styled", "led"}
        parents = {name: entry.get("parent") for name, entry in found.items()}
        assert parents == {"base": None, "spare": None, "pirate": "base", "styled": "pirate", "led": None}
        assert (await served.get("/v1/models/pirate")).json() == found["pirate"]
        shown = (await served.post("/api/show", {"model": "pirate"})).json()
        assert shown["system"] == "Arr." and shown["details"]["parent_model"] == "base"
        lines = [line.split() for line in shown["parameters"].splitlines()]
        assert lines == [["max_tokens", "7"], ["temperature", "0.5"]]
        assert "system" not in (await served.post("/api/show", {"model": "base"})).json()


async def test_slots_are_those_of_the_base(tmp_path: Path) -> None:
    """Base and persona together have one slot: of four requests no two are at the engine at once."""
    async with (
        FakeEngine(models=["up"], rules=SAYS, defaults={"first_token": 0.05}) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(each.outcome not in ("finished", "aborted") for each in one.requests))
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        names = ("base", "pirate", "led", "pirate")
        body = {"messages": [{"role": "user", "content": "x"}]}
        answers = await asyncio.gather(
            *(served.post("/v1/chat/completions", {"model": name, **body}) for name in names)
        )
        watching.cancel()
        assert [answer.status for answer in answers] == [200] * 4
        assert most == 1
        gates = {plan.model: plan.gate for plan in served.gateway.core.snapshot.catalog.plans()}
        assert gates["pirate"] is gates["base"] is not None and gates["spare"] is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/responses"])
async def test_a_template_goes_with_whatever_is_said_as_a_chat(path: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], rules=SAYS) as one,
        FakeEngine(models=["up"], rules=SAYS) as two,
        serving(tmp_path, text(one, two)) as served,
    ):
        more = {"input": "x"} if path.endswith("responses") else {}
        said = await asked(served, one, "styled", path, max_tokens=3, stream=False, **more)
        assert one.requests[-1].path == "/v1/chat/completions"
        assert said["chat_template"] == "{{ messages }}"
        assert said["messages"][0] == {"role": "system", "content": "Arr."}
        body = {"model": "pirate", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, **more}
        await served.post(path, body)
        assert "chat_template" not in one.requests[-1].json()

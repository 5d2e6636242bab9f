"""Health probes: what proves that a backend lives or is gone, and what is taken over from its own words."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule, Script
from gateway.fleet import health
from gateway.fleet.health import DOWN_AFTER, LATELY
from gateway.fleet.listing import MOST_MODELS
from tests.faults.clients import until
from tests.faults.support import question
from tests.serving import Answer, Served, serving


def _listing(*names: str) -> Script:
    body = {"object": "list", "data": [{"id": name, "max_model_len": 4096} for name in names]}
    return Script(rules=(Rule(match=Match(path="/v1/models"), reply=Reply(body=body)),))


async def _offered(folder: Path, script: Script, more: str = "") -> dict[str, int | None]:
    async with FakeEngine(script) as engine:
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}"{more}}}}}'
        async with serving(folder, config) as served:
            models = (await served.get("/v1/models")).json()["data"]
            return {model["id"]: model.get("max_model_len") for model in models}


async def test_models_are_offered_with_their_context(tmp_path: Path) -> None:
    assert await _offered(tmp_path, _listing("qwen/a:b", "zwei")) == {"qwen/a:b": 4096, "zwei": 4096}


async def test_names_that_could_break_a_header_or_a_page_are_left_out(tmp_path: Path) -> None:
    bad = (
        "a\r\nset-cookie: x",
        "a'; touch x; '",
        'a"b',
        "$(x)",
        "`x`",
        "<b>",
        "\x1b[31m",
        "",
        "x" * 300,
        " a",
        "a*",
    )
    assert set(await _offered(tmp_path, _listing("good", *bad))) == {"good"}


async def test_names_that_the_config_may_have_are_offered_where_an_engine_lists_them(tmp_path: Path) -> None:
    names = ["Qwen 2.5 (7B)", "通义千问", "claude[1m]", r"C:\models\x.gguf"]
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine(_listing(*names)))
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}"}}}}'
        served = await stack.enter_async_context(serving(tmp_path, config))
        models = (await served.get("/v1/models")).json()["data"]
        assert {model["id"] for model in models} == set(names)
        for name in names:
            answer = await served.post(
                "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            )
            assert (answer.status, answer.json()["model"]) == (200, name)
            assert (await served.get(f"/v1/models/{quote(name, safe='')}")).json()["id"] == name
        assert served.metric("gateway_requests_total", model=names[1]) == 1


async def test_a_backend_cannot_list_without_end(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(MOST_MODELS + 50)]
    assert len(await _offered(tmp_path, _listing(*names))) == MOST_MODELS


async def test_the_config_names_the_models_and_the_engine_adds_what_it_knows(tmp_path: Path) -> None:
    found = await _offered(tmp_path, _listing("a", "b"), more=", models: [a, c]")
    assert found == {"a": 4096, "c": None}


async def test_a_second_probe_may_find_an_engine_well(tmp_path: Path) -> None:
    busy = Rule(match=Match(path="/ready"), reply=Reply(status=503))
    well = Rule(match=Match(path="/health"), reply=Reply(status=200))
    for rules, expected in (
        ((busy, well), 200),
        ((busy, Rule(match=Match(path="/health"), reply=Reply(status=503))), 503),
    ):
        async with FakeEngine(Script(rules=rules)) as engine:
            config = f'backends: {{a: {{engine: sglang, url: "{engine.url}"}}}}'
            async with serving(tmp_path, config, patient=False) as served:
                assert (await served.get("/readyz")).status == expected


SLOW_HEALTH = {"match": {"path": "/health"}, "first_token": 30.0}


async def _streaming(served: Served) -> asyncio.Task[Answer]:
    stream = asyncio.create_task(served.post("/v1/chat/completions", question("m", stream=True)))
    backend = served.gateway.pool.backends["a"]
    await until(lambda: backend.answering == 1, "content comes")
    return stream


async def test_content_proves_that_a_busy_engine_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.05)
    endless = {"match": {"path": "/v1/chat/completions"}, "endless": True, "gap": 0.01}
    async with FakeEngine(models=["m"], rules=[endless]) as engine:
        config = f'backends: {{a: {{engine: vllm, url: "{engine.url}", models: [m]}}}}'
        async with serving(tmp_path, config, alone=False) as served:
            backend, fleet = served.gateway.pool.backends["a"], served.gateway.fleet
            stream = await _streaming(served)
            engine.set(models=["m"], rules=[SLOW_HEALTH])
            for _ in range(2 * DOWN_AFTER):
                await fleet.refresh("a")
            assert backend.usable, "its answer comes"
            stream.cancel()
            await until(lambda: not backend.answering, "the stream has ended")
            for _ in range(2 * DOWN_AFTER):
                await fleet.refresh("a")
            assert backend.usable, "its answer came lately"

            backend.heard_at -= 2 * LATELY
            for _ in range(DOWN_AFTER):
                await fleet.refresh("a")
            assert backend.health is Health.DOWN


async def test_an_answer_that_fell_silent_proves_nothing(tmp_path: Path) -> None:
    silent = {"match": {"path": "/v1/chat/completions"}, "faults": [{"at": "event 2", "do": "hang"}]}
    async with FakeEngine(models=["m"], rules=[silent]) as engine:
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}", models: [m], timeouts: {{idle: 200ms}}}}}}'
        async with serving(tmp_path, config) as served:
            backend = served.gateway.pool.backends["a"]
            stream = await _streaming(served)
            heard_at = backend.heard_at
            assert not (await stream).whole
            assert (backend.answering, backend.heard_at) == (0, heard_at)


async def test_content_does_not_outweigh_a_refused_connection(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as engine:
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}", models: [m]}}}}'
        async with serving(tmp_path, config) as served:
            backend, fleet = served.gateway.pool.backends["a"], served.gateway.fleet
            backend.heard_at = asyncio.get_running_loop().time()
            await engine.down()
            for _ in range(DOWN_AFTER):
                await fleet.refresh("a")
            assert backend.health is Health.DOWN


async def test_a_refused_connection_in_traffic_has_the_backend_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STEADY", 3600.0)
    async with FakeEngine(models=["m"]) as engine:
        config = f'backends: {{a: {{engine: openai, url: "{engine.url}", models: [m]}}}}'
        async with serving(tmp_path, config) as served:
            backend = served.gateway.pool.backends["a"]
            await engine.down()
            assert (await served.post("/v1/chat/completions", question("m"))).status == 502
            await until(lambda: backend.health is Health.DOWN, "probes have found it out")

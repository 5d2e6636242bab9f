"""What is taken over from a backend's own words: its models, if they can be names at all."""

from pathlib import Path

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule, Script
from gateway.fleet.listing import MOST_MODELS
from tests.serving import serving


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
    names = ("good", "a\r\nset-cookie: x", "a'; touch x; '", "\x1b[31m", "", "x" * 300, "two words")
    assert set(await _offered(tmp_path, _listing(*names))) == {"good"}


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

"""The engines' own pages through the gateway: unchanged, bounded, and an error where there is none to show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends import registry
from gateway.api import scraping
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from tests.serving import serving
from tests.toy_engine import GROVE

PAGE = b'# HELP orchard_prompts Tokens.\norchard_prompts{path="/models/\xff"} 1\n\n\n'
KIND = "application/openmetrics-text; version=1.0.0; charset=utf-8"
AT = "/backends/a/metrics"
CONFIG = """
backends:
  a: {{engine: grove, url: "{url}", api_key: sesame}}
  b: {{engine: openai, url: "{url}"}}
"""


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "grove", GROVE)


def rule(kind: str = KIND, status: int = 200, body: bytes = PAGE, **more: float) -> Rule:
    headers = (("content-type", kind),)
    return Rule(match=Match(path="/metrics"), reply=Reply(status=status, headers=headers, body=body), **more)


async def test_the_page_is_the_engine_s_with_its_content_type(tmp_path: Path) -> None:
    async with (
        FakeEngine(rules=[rule()]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        answer = await served.get(AT, accept="text/html", authorization="Bearer mine", cookie="x=1")
        assert (answer.status, answer.body, answer.whole) == (200, PAGE, True)
        assert answer.headers["content-type"] == KIND
        asked = [exchange for exchange in engine.journal.exchanges if exchange.path == "/metrics"][-1]
        assert asked.headers["authorization"] == "Bearer sesame"
        assert not {"accept", "cookie"} & asked.headers.keys()


async def test_head_is_answered_without_the_page(tmp_path: Path) -> None:
    async with (
        FakeEngine(rules=[rule()]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        answer = await served.ask("HEAD", AT, None, {})
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", KIND)
        assert (await served.ask("POST", AT, None, {})).error["code"] == "method_not_allowed"


async def test_what_is_no_metrics_page_is_shown_as_plain_text(tmp_path: Path) -> None:
    page = b"<script>alert(1)</script>"
    async with (
        FakeEngine(rules=[rule("text/html", body=page)]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        answer = await served.get(AT)
        assert (answer.body, answer.headers["content-type"]) == (page, "text/plain; charset=utf-8")
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_metrics_can_be_elsewhere(tmp_path: Path) -> None:
    async with FakeEngine(rules=[rule(status=500)]) as engine, FakeEngine(rules=[rule()]) as other:
        text = f'backends: {{a: {{engine: grove, url: "{engine.url}", metrics_url: "{other.url}"}}}}'
        async with serving(tmp_path, text) as served:
            assert (await served.get(AT)).body == PAGE


async def test_who_has_no_page_says_so(tmp_path: Path) -> None:
    async with (
        FakeEngine(rules=[rule(status=501)]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        unknown = await served.get("/backends/c/metrics")
        assert (unknown.status, unknown.error["code"]) == (404, "backend_not_found")
        refused = await served.get(AT)
        assert (refused.status, refused.error["code"]) == (502, "upstream_error")
        assert refused.error["message"] == "the engine of backend 'a' answered GET /metrics with 501"
        served.gateway.pool.backends["a"].locate(None)
        gone = await served.get(AT)
        assert (gone.status, gone.error["code"]) == (503, "no_healthy_backend")


async def test_an_engine_without_a_page_says_so(tmp_path: Path) -> None:
    async with (
        FakeEngine() as engine,
        serving(tmp_path, f'backends: {{a: {{engine: openai, url: "{engine.url}"}}}}') as served,
    ):
        none = await served.get(AT)
        assert (none.status, none.error["code"]) == (404, "no_metrics_page")
        assert none.error["message"] == "the engine of backend 'a', openai, has no metrics page"


async def test_an_engine_that_is_down_is_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG.format(url="http://127.0.0.1:9")) as served:
        answer = await served.get(AT)
        assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")


async def test_time_and_size_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "PAGE", len(PAGE) - 1)
    async with (
        FakeEngine(rules=[rule()]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        large = await served.get(AT)
        assert (large.status, large.error["code"]) == (502, "answer_too_large")
    monkeypatch.setattr(scraping, "PATIENCE", 0.05)
    slow = Rule(match=Match(path="/metrics"), first_token=30)
    async with FakeEngine(rules=[slow]) as engine, serving(tmp_path, CONFIG.format(url=engine.url)) as served:
        late = await served.get(AT)
        assert (late.status, late.error["code"]) == (504, "upstream_timeout_total")


async def test_a_page_is_asked_for_once_at_a_time(tmp_path: Path) -> None:
    async with (
        FakeEngine(rules=[rule(first_token=0.3)]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        before = engine.journal.totals.started
        answers = await asyncio.gather(*(served.get(AT) for _ in range(20)))
        assert {answer.body for answer in answers} == {PAGE}
        assert engine.journal.totals.started - before <= 2, "one for all, and perhaps the gateway's own"


async def test_prometheus_is_told_of_all_that_have_a_page(tmp_path: Path) -> None:
    async with FakeEngine() as engine, serving(tmp_path, CONFIG.format(url=engine.url)) as served:
        assert (await served.get("/backends/metrics")).json() == [
            {
                "targets": [f"127.0.0.1:{served.port}"],
                "labels": {"__metrics_path__": AT, "backend": "a", "engine": "grove"},
            }
        ]

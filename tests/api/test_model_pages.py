"""llama.cpp's `/props` and `/slots` by model: of the backend that serves it, for those who may see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from tests.serving import serving

CONFIG = """
backends:
  own: {{engine: llamacpp, url: "{url}", api_key: sesame}}
  other: {{engine: vllm, url: "{url}"}}
models:
  small: {{targets: {{other: up, own: "org/up"}}}}
  plain: {{targets: {{other: up}}}}
keys:
  boss: {{value: "${{env.BOSS}}", admin: true}}
  user: {{value: "${{env.USER}}", models: [small, plain]}}
  alien: {{value: "${{env.ALIEN}}", models: [plain]}}
"""
ENVIRON = {"BOSS": "sk-the-operators-key", "USER": "sk-the-users-own-key", "ALIEN": "sk-the-aliens-key"}
PAGE = b'{"total_slots": 4}'
RULES = [
    Rule(match=Match(path=f"/{name}*"), reply=Reply(status=200, body=PAGE)) for name in ("props", "slots")
]


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {ENVIRON[name]}"}


@pytest.mark.parametrize(("page", "who"), [("props", "USER"), ("slots", "BOSS")])
async def test_a_page_is_asked_of_the_engine_of_the_model(page: str, who: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up", "org/up"], rules=RULES) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url), ENVIRON) as served,
    ):
        answer = await served.get(f"/{page}?model=small", **key(who))
        assert (answer.status, answer.body) == (200, PAGE)
        assert answer.headers["content-type"] == "application/json"
        asked = [each for each in engine.requests if each.path.startswith(f"/{page}")][-1]
        assert asked.headers["authorization"] == "Bearer sesame"
        assert served.metric("gateway_requests_total") == 0


async def test_who_may_see_what(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up", "org/up"], rules=RULES) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url), ENVIRON) as served,
    ):
        assert (await served.get("/props?model=small")).status == 401
        assert (await served.get("/props?model=small", **key("ALIEN"))).error["code"] == "model_not_found"
        assert (await served.get("/slots?model=small", **key("USER"))).status == 403
        assert (await served.get("/props", **key("USER"))).error["param"] == "model"
        refused = await served.get("/props?model=plain", **key("USER"))
        assert (refused.status, refused.error["code"]) == (400, "not_supported")
        assert not [each for each in engine.requests if each.path.startswith("/props")]


async def test_an_engine_that_is_down_is_not_asked(tmp_path: Path) -> None:
    text = CONFIG.format(url="http://127.0.0.1:9")
    async with serving(tmp_path, text, ENVIRON) as served:
        answer = await served.get("/props?model=small", **key("USER"))
        assert answer.status == 503 and answer.error

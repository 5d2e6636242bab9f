"""What a backend tells of its models: one bad answer takes nothing away, and what is wrong is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.console.backends import table
from gateway.fake.engine import FakeEngine
from gateway.fleet.backend import Backend
from gateway.fleet.health import DOWN_AFTER
from gateway.fleet.keeper import Here
from gateway.fleet.residence import Residence
from tests.faults.support import question
from tests.serving import Served, serving
from tests.test_backends_view import NOW

CHAT = "/v1/chat/completions"
ONE = 'backends: {{a: {{engine: vllm, url: "{url}"}}}}'
HTML = {"body": "<html>Welcome to nginx!</html>", "headers": {"content-type": "text/html"}}
BAD: dict[str, Mapping[str, Any]] = {
    "429": {"status": 429},
    "500": {"status": 500},
    "401": {"status": 401},
    "404": {"status": 404},
    "html": HTML,
    "an error": {"body": {"error": "no"}},
    "nothing": {"body": ""},
}
WORDS = {
    "429": "its model list answered 429",
    "500": "its model list answered 500",
    "401": "its model list answered 401: check `api_key`",
    "404": "its model list answered 404: check `url`, or name its models in the config",
    "html": "its model list is a web page: check `url`",
    "an error": "its model list cannot be read: not a list of models: it has no 'data'",
    "nothing": "its model list cannot be read: not a list of models: Input data was truncated",
}


def answers(engine: FakeEngine, listed: Mapping[str, Any] | None) -> None:
    """Have the engine answer its model list so from now on; None: with its models."""
    engine.set(
        models=["m"], rules=[] if listed is None else [{"match": {"path": "/v1/models"}, "reply": listed}]
    )


def backend(served: Served) -> Backend:
    return served.gateway.pool.backends["a"]


def shown(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.gateway.fleet.views(0.0)[0].model_dump(mode="json")
    return found


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_answer_takes_nothing_away(
    tmp_path: Path, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine(models=["m"]) as engine, serving(tmp_path, ONE.format(url=engine.url)) as served:
        answers(engine, BAD[bad])
        told_at = backend(served).listed.at
        for _ in range(2):
            await served.gateway.fleet.refresh("a")
        assert (await served.post(CHAT, question("m"))).status == 200
        assert (await served.get("/readyz")).status == 200
        assert (shown(served)["state"], shown(served)["reason"]) == ("ready", WORDS[bad])
        assert backend(served).listed.at == told_at, "the list gets older"
        lines = [line for line in caplog.messages if "its model list" in line]
        assert lines == [f"backend 'a': {WORDS[bad]}; what it told before stays"]

        answers(engine, None)
        await served.gateway.fleet.refresh("a")
        assert (shown(served)["state"], shown(served)["reason"]) == ("ready", "")
        assert backend(served).listed.at != told_at


async def test_a_list_of_nothing_but_odd_cards_takes_nothing_away(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        answers(engine, None)
        async with serving(tmp_path, ONE.format(url=engine.url)) as served:
            answers(engine, {"body": {"data": [{"id": 7}, {}, {"id": "<m>"}]}})
            await served.gateway.fleet.refresh("a")
            assert [model["id"] for model in shown(served)["models"]] == ["m"]
            assert backend(served).listed.flaw == "its model list has no model in it that can be offered"
            answers(engine, {"body": {"data": []}})
            await served.gateway.fleet.refresh("a")
            assert shown(served)["models"] == [] and not backend(served).listed.flaw


async def test_a_good_list_says_otherwise(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as engine, serving(tmp_path, ONE.format(url=engine.url)) as served:
        answers(engine, {"body": {"data": [{"id": "n"}]}})
        await served.gateway.fleet.refresh("a")
        assert (await served.post(CHAT, question("m"))).status == 404
        answers(engine, {"body": {"data": []}})
        await served.gateway.fleet.refresh("a")
        none = await served.post(CHAT, question("n"))
        assert (none.status, none.error["code"]) == (404, "model_not_found")


async def test_a_backend_that_was_down_tells_anew(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as engine, serving(tmp_path, ONE.format(url=engine.url)) as served:
        engine.set(models=["m"], rules=[{"match": {"path": "*"}, "reply": {"status": 500}}])
        for _ in range(DOWN_AFTER):
            await served.gateway.fleet.refresh("a")
        assert [model["id"] for model in shown(served)["models"]] == ["m"], "its models may come back with it"
        answers(engine, BAD["404"])
        await served.gateway.fleet.refresh("a")
        assert (shown(served)["state"], shown(served)["models"]) == ("flawed", [])


@pytest.mark.parametrize("bad", BAD)
async def test_a_backend_that_tells_no_models_is_not_ready(
    tmp_path: Path, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with FakeEngine() as engine:
        answers(engine, BAD[bad])
        async with serving(tmp_path, ONE.format(url=engine.url)) as served:
            ready = await served.get("/readyz")
            assert ready.status == 503
            assert f"backend 'a': {WORDS[bad]}" in ready.error["message"]
            assert (shown(served)["state"], shown(served)["reason"]) == ("flawed", WORDS[bad])
            assert WORDS[bad] in table([shown(served)], NOW, None)[1]
            assert caplog.messages.count(f"backend 'a': {WORDS[bad]}") == 1
            assert not any("is ready" in line for line in caplog.messages)
            assert served.metric("gateway_backend_up", backend="a") == 0

            unknown = await served.post(CHAT, question("m"))
            assert (unknown.status, unknown.headers["retry-after"]) == (503, "5")

            answers(engine, None)
            await served.gateway.fleet.refresh("a")
            assert (await served.get("/readyz")).status == 200
            assert "backend 'a' is ready (m)" in caplog.messages
            assert served.metric("gateway_backend_up", backend="a") == 1
            assert (await served.post(CHAT, question("m"))).status == 200


@pytest.mark.parametrize(
    "config",
    [
        'backends: {{a: {{engine: vllm, url: "{url}", models: [m]}}}}',
        'backends: {{a: {{engine: vllm, url: "{url}"}}}}\nmodels: {{m: {{targets: {{a: m}}}}}}',
    ],
)
async def test_who_is_named_in_the_config_needs_no_list(tmp_path: Path, config: str) -> None:
    async with FakeEngine() as engine:
        answers(engine, BAD["404"])
        async with serving(tmp_path, config.format(url=engine.url)) as served:
            assert (await served.get("/readyz")).status == 200
            assert (shown(served)["state"], shown(served)["reason"]) == ("ready", "")
            assert (await served.post(CHAT, question("m"))).status == 200
            answers(engine, BAD["401"])
            await served.gateway.fleet.refresh("a")
            assert (await served.get("/readyz")).status == 200
            assert (shown(served)["state"], shown(served)["reason"]) == ("ready", WORDS["401"])


TWO = """backends:
  a: {{engine: vllm, url: "{a}"}}
  b: {{engine: vllm, url: "{b}"}}
keys: {{one: {{value: "${{env.ONE}}", models: [m]}}, all: {{value: "${{env.ALL}}"}}}}
"""


async def test_a_name_is_unknown_once_the_backends_have_told(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as first, FakeEngine(models=["n"]) as second:
        second.set(models=["n"], rules=[{"match": {"path": "/health"}, "reply": {"status": 503}}])
        config = TWO.format(a=first.url, b=second.url)
        async with serving(tmp_path, config, {"ONE": "sk-one", "ALL": "sk-all"}) as served:
            fleet = served.gateway.fleet

            async def ask(model: str, key: str) -> tuple[int, str]:
                answer = await served.post(CHAT, question(model), authorization=f"Bearer {key}")
                return answer.status, answer.headers.get("retry-after", "")

            assert await ask("m", "sk-all") == (200, "")
            assert await ask("n", "sk-all") == (404, ""), "one has told, and the other one is down"
            served.gateway.pool.backends["b"].health = None
            assert await ask("n", "sk-all") == (503, "5"), "the other one may have it"
            assert await ask("n", "sk-one") == (404, ""), "this key may not use it anyhow"
            second.set(models=["n"])
            await fleet.refresh("b")
            assert await ask("n", "sk-all") == (200, "")
            assert await ask("o", "sk-all") == (404, "")


async def test_what_cannot_be_offered_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = [
        {"id": "two\nlines"},
        {"id": "good", "max_model_len": "many"},
        {"id": 7},
        {"id": "fine", "max_model_len": 512},
    ]
    async with FakeEngine() as engine:
        answers(engine, {"body": json.dumps({"data": listed})})
        async with serving(tmp_path, ONE.format(url=engine.url)) as served:
            for _ in range(3):
                await served.gateway.fleet.refresh("a")
            found = {model["id"]: model["context"] for model in shown(served)["models"]}
            assert found == {"good": None, "fine": 512}
            assert all(line.isprintable() for line in caplog.messages)
            odd = [line for line in caplog.messages if "its model" in line]
            assert len(odd) == 3
            assert "its model 'two\\nlines' is not offered" in odd[0]
            assert odd[1] == "backend 'a': in its model list, good: its max_model_len is no number of tokens"
            assert odd[2] == "backend 'a': in its model list, a card is left out: it has no name"


async def test_a_list_that_does_not_come_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        engine.set(rules=[{"match": {"path": "/v1/models"}, "faults": [{"at": "request", "do": "reset"}]}])
        async with serving(tmp_path, ONE.format(url=engine.url)) as served:
            assert shown(served)["state"] == "flawed"
            assert "its model list did not come: " in shown(served)["reason"]


@pytest.mark.parametrize(
    ("told", "launched", "longest", "known"),
    [
        ([{"id": "/models/folder", "max_model_len": 2048}], True, None, [2048, 2048]),
        ([{"id": "/models/folder", "max_model_len": 2048}], False, None, [None, None]),
        ([{"id": "n"}], True, 4096, [4096, 4096]),
        ([{"id": "n", "max_model_len": 512}, {"id": "x"}], True, 4096, [512, 4096]),
        ([{"id": "n"}], False, None, [None, None]),
    ],
)
async def test_names_that_an_engine_does_not_know_are_as_long_as_its_model(
    tmp_path: Path, told: list[Any], launched: bool, longest: int | None, known: list[int | None]
) -> None:
    """TGI lists the folder of its model, LMDeploy no length; a launched engine has one model under all names."""
    async with FakeEngine(models=["m"]) as engine:
        text = f'backends: {{a: {{engine: vllm, url: "{engine.url}", models: [n, o]}}}}'
        async with serving(tmp_path, text) as served:
            backend(served).longest = longest
            backend(served).residence = Residence("a", Here(None)) if launched else None
            answers(engine, {"body": {"data": told}})
            await served.gateway.fleet.refresh("a")
            assert [card.context for card in backend(served).models or ()] == known


async def test_launch_options_say_how_long_a_request_may_be(tmp_path: Path) -> None:
    options = "model: /m, name: n, max_model_len: 2048, command: [/bin/false]"
    text = f"backends: {{a: {{engine: lmdeploy, launch: {{{options}}}}}}}"
    async with serving(tmp_path, text, patient=False) as served:
        assert (backend(served).launched, backend(served).longest) == (True, 2048)

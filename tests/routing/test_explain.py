"""Explanations: of a running gateway, of a file, and of what was decided; always the decision that would be made."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.auth import ANYONE
from tests.faults.clients import CHAT, chat, rest, until
from tests.routing.test_routes import MODELS, ask, model_of, routed

EXPLAIN = "/v1/route:explain"
RULES = """
  - {name: batch, match: {header: {x-tier: batch}}, to: small}
  - {name: streams, match: {stream: true}, unless: {user: vip}, to: {failover: [big, small]}}
"""


async def test_an_explanation_is_what_is_done(tmp_path: Path) -> None:
    async with routed(tmp_path, RULES) as (served, first, _):
        for headers, body in (
            ({}, {}),
            ({"x_tier": "batch"}, {"stream": True}),
            ({}, {"stream": True}),
            ({}, {"stream": True, "user": "vip"}),
        ):
            told = (await served.post(EXPLAIN, {**chat(), "model": "big", **body}, **headers)).json()
            answer = await ask(served, headers=headers, **body)
            assert told["rule"] == answer.headers.get("x-gateway-route")
            assert told["model"] == model_of(answer)
            assert any(each["backend"] == answer.headers["x-gateway-backend"] for each in told["candidates"])
        before = len(first.requests)
        await served.post(EXPLAIN, {**chat(), "model": "big"})
        assert len(first.requests) == before, "nothing is sent on"


async def test_models_that_stand_in_are_explained_too(tmp_path: Path) -> None:
    more = "defaults: {model: big, unknown_model: small}"
    rules = "  - {name: batch, match: {model: small, header: {x-tier: batch}}, to: hidden}"
    async with routed(tmp_path, rules, more=more) as (served, _, _):
        for model, headers in ((None, {}), ("none", {}), ("none", {"x_tier": "batch"}), ("", {})):
            body = chat() | {"model": model}
            if model is None:
                del body["model"]
            told = (await served.post(EXPLAIN, body, **headers)).json()
            answer = await served.post(CHAT, body, **headers)
            assert told["model"] == model_of(answer)
            assert told["rule"] == answer.headers.get("x-gateway-route")
            assert told.get("stand_in") == ("small" if model == "none" else None)
            assert told["asked"]["model"] == (model or "big")
        embed = {"model": "none", "input": "x"}
        answered = await served.post("/v1/embeddings", embed)
        explained = (await served.post(f"{EXPLAIN}?operation=embeddings", embed)).json()
        assert (answered.status, explained["model"]) == (200, "small")


async def test_it_says_of_each_rule_and_backend_why_not(tmp_path: Path) -> None:
    async with routed(tmp_path, RULES) as (served, first, _):
        await rest(served)
        await first.down()
        await until(lambda: not served.gateway.pool.backends["first"].usable, "it was probed")
        told = (await served.post(EXPLAIN, {**chat(), "model": "big", "stream": True})).json()
        batch, streams = told["rules"]
        assert batch == {
            "name": "batch",
            "verdict": "does not fit",
            "match": [{"condition": "header x-tier", "wanted": "batch", "found": "nothing", "fits": False}],
        }
        assert streams["verdict"] == "taken"
        assert streams["unless"][0]["fits"] is False
        assert told["choice"] == ["first: to the model 'big'", "then: to the model 'small'"]
        down, up = told["candidates"]
        assert (down["backend"], down["turn"], down["usable"]) == ("first", "its own", False)
        assert down["against"].startswith("it is not up")
        assert (up["backend"], up["turn"], up["usable"]) == ("second", "a fallback", True)
        await first.up()


TWO = """
models:
  big: {targets: {first: m, second: m}, balance: %s}
  small: {targets: {second: m}}
"""


async def test_it_says_what_each_backend_scores_and_which_is_chosen(tmp_path: Path) -> None:
    models = TWO % "round_robin"
    async with routed(tmp_path, "  []", models) as (served, _, _):
        await rest(served)
        for _ in range(4):
            told = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()
            again = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()
            assert (again["backend"], again["candidates"]) == (told["backend"], told["candidates"])
            assert {each["policy"] for each in told["candidates"]} == {"round_robin"}
            assert sorted(each["chance"] for each in told["candidates"]) == [0.0, 1.0]
            answer = await ask(served, "big")
            assert answer.headers["x-gateway-backend"] == told["backend"]
        assert (await served.post("/gateway/backends/first/drain", {})).status == 200
        told = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()
        drained, other = told["candidates"]
        assert (drained["drained"], drained["against"]) == (True, "an operator has drained it")
        assert "score" not in drained
        assert (other["drained"], other["chance"], told["backend"]) == (False, 1.0, "second")


async def test_where_chance_decides_it_says_so_with_slow_start_and_ordered_weights(tmp_path: Path) -> None:
    async with routed(tmp_path, "  []", TWO % "least_loaded") as (served, _, _):
        await rest(served)
        first = served.gateway.pool.backends["first"]
        assert (await served.post("/gateway/backends/second/weight", {"weight": 2})).status == 200
        first.start_slowly()
        told = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()
        slow, other = told["candidates"]
        assert (told["backend"], told["backend_why"]) == (None, "chance decides")
        assert (slow["slow_start"], slow["weight"], slow["share"]) == (0.1, 0.1, 1)
        assert (other["slow_start"], other["ordered_weight"], other["weight"]) == (1.0, 2.0, 2.0)
        assert slow["chance"] == pytest.approx(0.1 / 2.1, abs=1e-4)
        assert slow["score"] == 10.0
        assert first._back_since is None, "to be explained begins no slow start"
        only = (await served.post(EXPLAIN, {**chat(), "model": "small"})).json()
        (target,) = only["candidates"]
        assert (target["policy"], target["score"], only["backend"]) == (None, None, "second")
        assert target["weighed"] == "the model has no other backend"


async def test_a_model_without_what_a_request_needs_is_no_candidate(tmp_path: Path) -> None:
    models = """
models:
  big: {targets: {first: m}, capabilities: {tools: false}, fallback: [small]}
  small: {targets: {second: m}}
"""
    async with routed(tmp_path, "  []", models) as (served, _, _):
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        told = (await served.post(EXPLAIN, {**chat(), "model": "big", "tools": tools})).json()
        unable, able = told["candidates"]
        assert unable["against"] == "the model does not have what the request needs: tools"
        assert (able["usable"], told["backend"]) == (True, "second")
        answer = await ask(served, "big", tools=tools)
        assert answer.headers["x-gateway-backend"] == "second"


async def test_a_request_that_would_wait_is_told_so(tmp_path: Path) -> None:
    models = TWO.replace("big: {", "big: {admission: {concurrency: 1}, ") % "round_robin"
    async with routed(tmp_path, "  []", models) as (served, _, _):
        gate = served.gateway.core.snapshot.catalog.resolve("big", ANYONE).gate
        assert gate is not None
        assert gate.try_enter()
        told = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()
        assert (told["backend"], told["backend_why"]) == (
            None,
            "it would wait for a slot of the model first",
        )
        assert {each["chance"] for each in told["candidates"]} == {None}
        gate.leave()


async def test_a_canary_says_why_it_is_at_its_share(tmp_path: Path) -> None:
    growth = "steps: [50%, 100%], interval: 1h, samples: 10"
    rules = f"  - {{name: trial, match: {{model: big}}, to: {{canary: {{model: small, against: big, {growth}}}}}}}"
    async with routed(tmp_path, rules) as (served, _, _):
        for _ in range(6):
            await ask(served)
        said = (await served.post(EXPLAIN, {**chat(), "model": "big"})).json()["choice"][1]
        counted = re.fullmatch(
            r"step 1 of 2 for \d+ s, with (\d+) requests of the canary and (\d+) of the incumbent; "
            r"the next one after 3600 s and 10 of each",
            said,
        )
        assert counted is not None, said
        assert int(counted[1]) + int(counted[2]) == 6


async def test_what_would_be_refused_is_told_with_its_error(tmp_path: Path) -> None:
    async with routed(tmp_path, RULES) as (served, _, _):
        told = (await served.post(EXPLAIN, {**chat(), "model": "none"})).json()
        assert told["error"]["status"] == 404
        assert told["error"]["code"] == "model_not_found"
        wrong = await served.post(EXPLAIN, {"model": 5})
        assert wrong.status == 400
        assert wrong.error["param"] == "model"


async def test_only_operators_ask_for_other_keys(tmp_path: Path) -> None:
    more = """
server: {listen: "127.0.0.1:0", auth: keys}
keys:
  boss: {value: "${env.KEY_A}", admin: true}
  team: {value: "${env.KEY_B}", models: [small], tags: [x]}
"""
    rules = "  - {name: x, match: {key_tag: x}, to: small}"
    async with routed(tmp_path, rules, more=more) as (served, _, _):
        boss, team = {"authorization": "Bearer a-key"}, {"authorization": "Bearer b-key"}
        body = {**chat(), "model": "small"}
        as_team = (await served.post(f"{EXPLAIN}?key=team", body, **boss)).json()
        assert (as_team["asked"]["key"], as_team["rule"]) == ("team", "x")
        assert (await served.post(EXPLAIN, body, **boss)).json()["rule"] is None
        assert (await served.post(f"{EXPLAIN}?key=boss", body, **team)).status == 403
        assert (await served.post(f"{EXPLAIN}?key=nobody", body, **boss)).status == 400
        assert (await served.post(EXPLAIN, body)).status == 401
        hidden = (await served.post(EXPLAIN, {**chat(), "model": "big"}, **team)).json()
        assert hidden["error"]["status"] == 404
        assert "big" not in json.dumps(hidden["error"]).replace("'big'", "", 1)
        assert (await served.get("/gateway/decisions/x", **team)).status == 403


async def test_who_is_no_operator_is_told_nothing_of_others(tmp_path: Path) -> None:
    more = """
server: {listen: "127.0.0.1:0", auth: keys}
keys:
  boss: {value: "${env.KEY_A}", admin: true}
  team: {value: "${env.KEY_B}", models: [small]}
"""
    rules = """
  - {name: other-name, match: {model: hidden-name}, to: big}
  - {name: vips, match: {model: small, user: hidden-user, header: {x-tier: hidden-value}}, to: big}
  - {name: mine, match: {model: small}, unless: {key: hidden-key}, to: {failover: [big, small]}}
"""
    models = MODELS.replace("{first: m}", "{first: hidden-upstream}")
    async with routed(tmp_path, rules, models, more) as (served, first, _):
        await rest(served)
        await first.down()
        await until(lambda: not served.gateway.pool.backends["first"].usable, "it was probed")
        boss, team = {"authorization": "Bearer a-key"}, {"authorization": "Bearer b-key"}
        body = {**chat(), "model": "small"}
        whole = await served.post(EXPLAIN, body, **boss)
        assert all(
            f"hidden-{what}" in whole.body.decode() for what in ("name", "user", "value", "key", "upstream")
        )
        answer = await served.post(EXPLAIN, body, **team)
        assert "hidden-" not in answer.body.decode()
        assert first.url not in answer.body.decode()
        told = answer.json()
        assert (told["rule"], told["model"]) == ("mine", "big")
        assert [(rule["name"], rule["verdict"]) for rule in told["rules"]] == [
            ("vips", "does not fit"),
            ("mine", "taken"),
        ]
        assert told["rules"][0]["match"][1] == {
            "condition": "header x-tier",
            "found": "nothing",
            "fits": False,
        }
        assert [each.get("against") for each in told["candidates"]] == ["it is not up", None]


CONFIG = """
backends: {a: {engine: vllm, url: "http://127.0.0.1:1"}}
models:
  big: {targets: {a: m}}
  small: {targets: {a: s}}
routes:
  - {name: night, match: {time: {after: "22:00", before: "06:00"}}, to: small}
  - {name: long, match: {prompt_tokens: {min: 100}, key: team}, to: small}
keys:
  team: {hash: "sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"}
"""


def explained(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str, text: str = "hi") -> str:
    file, request = tmp_path / "gateway.yaml", tmp_path / "request.json"
    file.write_text(CONFIG)
    request.write_text(json.dumps({"model": "big", "messages": [{"role": "user", "content": text}]}))
    with contextlib.suppress(SystemExit):
        main(["explain", str(file), str(request), *options])
    said = capsys.readouterr()
    return said.out + said.err


def test_a_file_explains_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noon, night = ["--at", "2026-11-30T12:00+00:00"], ["--at", "2026-11-30T23:00+00:00"]
    said = explained(tmp_path, capsys, *noon)
    assert "rule 'night': does not fit" in said
    assert "sun 22:00 to 06:00 UTC, found mon 12:00  <- does not fit" in said
    assert "no rule fits: to the model of that name" in said
    assert "served by the model 'big' (name)" in said
    assert "  backend 'a' as 'm', its own: can be used\n" in said
    assert "the backend 'a' would be chosen: nothing but this one would be chosen" in said
    assert "served by the model 'small' (rule)" in explained(tmp_path, capsys, *night)
    long = explained(tmp_path, capsys, *noon, "--key", "team", text="x" * 1000)
    assert "rule 'long': taken" in long
    told = json.loads(explained(tmp_path, capsys, *noon, "--json"))
    assert (told["rule"], told["model"]) == (None, "big")


def test_a_file_says_what_would_be_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, request = tmp_path / "gateway.yaml", tmp_path / "request.json"
    file.write_text("""
backends:
  a: {engine: vllm, url: "http://127.0.0.1:1"}
  b: {engine: vllm, url: "http://127.0.0.1:2"}
models:
  big: {targets: {a: m, b: {model: m, weight: 3}}, balance: weighted}
""")
    request.write_text(json.dumps({"model": "big", "messages": [{"role": "user", "content": "hi"}]}))
    assert main(["explain", str(file), str(request)]) == 0
    said = capsys.readouterr().out
    assert "'b' as 'm', its own: can be used; weighted 3 (drawn by chance" in said
    assert "chosen with a chance of 0.75" in said
    assert "which backend is not certain: chance decides" in said


def test_a_file_says_which_model_stands_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, request = tmp_path / "gateway.yaml", tmp_path / "request.json"
    file.write_text(CONFIG + "defaults: {model: big, unknown_model: small}\n")
    for model, words in (
        ('"model": "none", ', "'small' stands in for it"),
        ("", "served by the model 'big'"),
    ):
        request.write_text(f'{{{model}"messages": [{{"role": "user", "content": "hi"}}]}}')
        assert main(["explain", str(file), str(request), "--at", "2026-11-30T12:00+00:00"]) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key", "nobody"], "there is no key 'nobody'"),
        (["--header", "x"], "'x' is no header: write NAME=VALUE"),
    ],
)
def test_what_cannot_be_explained_is_said(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in explained(tmp_path, capsys, *options)

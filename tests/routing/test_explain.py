"""Explanations: of a running gateway, of a file, and of what was decided; always the decision that would be made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.faults.clients import chat, rest, until
from tests.routing.test_routes import ask, model_of, routed

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
    assert "  backend 'a' as 'm', its own: can be used" in said
    assert "served by the model 'small' (rule)" in explained(tmp_path, capsys, *night)
    long = explained(tmp_path, capsys, *noon, "--key", "team", text="x" * 1000)
    assert "rule 'long': taken" in long
    told = json.loads(explained(tmp_path, capsys, *noon, "--json"))
    assert (told["rule"], told["model"]) == (None, "big")


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

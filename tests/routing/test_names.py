"""Which model a name means: names before patterns, the best of several patterns, and what nobody is told of."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import ANYONE, Caller
from gateway.balance.basic import LeastLoaded
from gateway.errors import GatewayError
from gateway.fake.engine import FakeEngine
from gateway.globs import Globs, Ranked, same
from gateway.routing import catalog
from gateway.routing.catalog import Catalog, Group, Listed, Names, Plan
from tests.serving import serving


def plan(model: str, *names: str) -> Plan:
    group = Group(model, (model, *names), (), LeastLoaded(random.Random(1)))
    return Plan((group,), 1, 1.0, 1.0)


BEST = [
    ("gpt-4o", ["gpt-4*", "gpt-*", "*"], "gpt-4*"),
    ("gpt-3", ["gpt-4*", "gpt-*", "*"], "gpt-*"),
    ("o1", ["gpt-4*", "gpt-*", "*"], "*"),
    ("gpt-4o-mini", ["gpt-4o*", "*mini", "*-mini"], "gpt-4o*"),
    ("gpt-4o-mini", ["gpt-*", "*o-mini"], "*o-mini"),
    ("abc", ["a*c", "a?c"], "a?c"),
    ("abc", ["a?c", "?bc"], "?bc"),
    ("abc", ["ab?", "?bc"], "?bc"),
    ("abc", ["x*", "abcd*"], None),
    ("a[1m]", ["a[*", "a*"], "a[*"),
]


@pytest.mark.parametrize(("name", "patterns", "best"), BEST)
def test_which_pattern_is_the_best(name: str, patterns: list[str], best: str | None) -> None:
    assert Ranked(patterns).best(name) == Ranked(patterns[::-1]).best(name) == best


def said(pattern: str) -> int:
    return sum(sign not in "*?" for sign in pattern)


TEXTS = st.text("ab*?", min_size=1, max_size=5)


@given(st.lists(TEXTS, max_size=8), st.text("ab", max_size=5), st.randoms())
def test_the_winner_is_the_documented_one(patterns: list[str], name: str, rng: random.Random) -> None:
    """A model of that name; else the pattern that says most, whatever the order of the file."""
    plans = {pattern: plan(f"model of {pattern}") for pattern in patterns}
    exact = {pattern: made for pattern, made in plans.items() if not set(pattern) & set("*?")}
    globs = {pattern: made for pattern, made in plans.items() if pattern not in exact}
    shuffled = list(globs)
    rng.shuffle(shuffled)
    made = Catalog(Names(exact, [], {pattern: globs[pattern] for pattern in shuffled}))
    found = made.find(name, ANYONE)
    assert found is made.find(name, ANYONE), "what is remembered is the same"
    fitting = [pattern for pattern in globs if Globs([pattern]).fits(name)]
    if name in exact:
        assert found is exact[name]
    elif not fitting:
        assert found is None
    else:
        assert found is not None
        winner = found.model.removeprefix("model of ")
        assert winner in fitting and said(winner) == max(map(said, fitting))
        rivals = [pattern for pattern in fitting if said(pattern) == said(winner)]
        assert winner.count("*") == min(pattern.count("*") for pattern in rivals)


@given(TEXTS, TEXTS, st.text("ab", max_size=5))
def test_patterns_that_are_the_same_fit_the_same(one: str, other: str, name: str) -> None:
    assert Globs([one]).fits(name) == Globs([same(one)]).fits(name)
    if same(one) == same(other):
        assert Globs([one]).fits(name) == Globs([other]).fits(name)


def test_what_is_remembered_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def best(self: Ranked, name: str) -> str | None:
        tried.append(name)
        return real(self, name)

    real = Ranked.best
    monkeypatch.setattr(Ranked, "best", best)
    monkeypatch.setattr(catalog, "_REMEMBERED", 3)
    made = Catalog(Names({}, [], {"a*": plan("m")}))
    names = ["a1", "b", "a1", "b", "a2", "a3", "a1", "a" * 300, "a" * 300]
    assert [made.find(name, ANYONE) is not None for name in names] == [n[0] == "a" for n in names]
    if not catalog.__file__.endswith(".so"):
        assert tried == ["a1", "b", "a2", "a3", "a1", "a" * 300, "a" * 300]


def test_a_key_allows_by_a_name_of_the_model_or_by_the_name_asked_for() -> None:
    served = plan("m", "n")
    made = Catalog(Names({"m": served, "n": served}, [Listed("m", served.groups[0])], {"gpt-*": served}))
    for models, able in [
        (("m",), {"m", "n", "gpt-4", "gpt-5"}),
        (("n",), {"m", "n", "gpt-4", "gpt-5"}),
        (("gpt-4",), {"gpt-4"}),
        (("gpt-?",), {"gpt-4", "gpt-5"}),
        (("gpt-*",), {"gpt-4", "gpt-5"}),
        (("x",), set()),
    ]:
        caller = Caller("k", models)
        asked = ["m", "n", "gpt-4", "gpt-5", "o"]
        assert {name for name in asked if made.find(name, caller)} == able


def test_an_internal_model_is_found_by_rules_alone() -> None:
    hidden = plan("hidden")
    made = Catalog(Names({}, [], models={"hidden": hidden}))
    assert made.model("hidden") is hidden
    assert made.find("hidden", ANYONE) is None
    messages = set()
    for name in ("hidden", "hiddem"):
        with pytest.raises(GatewayError) as caught:
            made.resolve(name, ANYONE)
        messages.add(caught.value.message.replace(name, "_"))
    assert len(messages) == 1


CONFIG = """
backends: {{one: {{engine: openai, url: "{url}", models: [up, down]}}}}
models:
  small: {{targets: {{one: down}}, aliases: ["gpt-*", {{name: quiet, unlisted: true}}, mini]}}
  big: {{targets: {{one: up}}, aliases: ["gpt-4*", gpt-3], fallback: [engine-room]}}
  silent: {{targets: {{one: up}}, unlisted: true, aliases: [mute]}}
  engine-room: {{targets: {{one: up}}, internal: true, aliases: [boiler, "boil*"]}}
"""


def chat(name: str) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "x"}]}


async def test_names_over_sockets(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up", "down"], rules=[{"say": "yes"}]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
    ):
        means = {
            **dict.fromkeys(["small", "mini", "quiet", "gpt-5", "gpt-"], ("small", "down")),
            **dict.fromkeys(["big", "gpt-3", "gpt-4", "gpt-4o-mini"], ("big", "up")),
            **dict.fromkeys(["silent", "mute"], ("silent", "up")),
        }
        for name, (model, upstream) in means.items():
            answer = await served.post("/v1/chat/completions", chat(name))
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, model), name
            assert answer.json()["model"] == name
            assert engine.requests[-1].json()["model"] == upstream
            shown = await served.get(f"/v1/models/{name}")
            assert (shown.status, shown.json()["id"]) == (200, name)
        listed = [entry["id"] for entry in (await served.get("/v1/models")).json()["data"]]
        assert sorted(listed) == ["big", "gpt-3", "mini", "small"]
        asked = len(engine.requests)
        for name in ("engine-room", "boiler", "boiling", "nothing-like-it"):
            answer = await served.post("/v1/chat/completions", chat(name))
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
            message = answer.error["message"]
            assert message.startswith(f"there is no model '{name}'")
            assert message.endswith("; models here: " + ", ".join(listed))
            hidden = {"engine-room", "boiler", "silent", "quiet"} - {name}
            assert not any(word in message for word in hidden)
            assert (await served.get(f"/v1/models/{name}")).status == 404
        assert not [made for made in engine.requests[asked:] if made.method == "POST"]


async def test_a_fallback_may_be_an_internal_model(tmp_path: Path) -> None:
    broken = {"match": {"model": "up"}, "reply": {"status": 500}}
    async with (
        FakeEngine(models=["up", "down"], rules=[broken, {"say": "yes"}]) as engine,
        serving(
            tmp_path,
            f"""
backends: {{one: {{engine: openai, url: "{engine.url}", models: [up, down]}}}}
models:
  big: {{targets: {{one: up}}, fallback: [spare]}}
  reserve: {{targets: {{one: down}}, internal: true, aliases: [spare]}}
""",
        ) as served,
    ):
        answer = await served.post("/v1/chat/completions", chat("big"))
        assert (answer.status, answer.headers["x-gateway-model"]) == (200, "reserve")


async def test_a_key_for_names_that_a_pattern_fits(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"k").hexdigest()
    keys = f"keys: {{k: {{hash: 'sha256:{digest}', models: [gpt-4o, 'gpt-5*', mute]}}}}"
    async with (
        FakeEngine(models=["up", "down"], rules=[{"say": "yes"}]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url) + keys) as served,
    ):
        for name, status in {
            "gpt-4o": 200,
            "gpt-5x": 200,
            "mute": 200,
            "silent": 200,
            "gpt-4": 404,
            "gpt-6": 404,
            "big": 404,
        }.items():
            answer = await served.post("/v1/chat/completions", chat(name), authorization="Bearer k")
            assert answer.status == status, name

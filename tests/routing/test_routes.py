"""Rules from the config file to the client: which model serves a request, and what the answer says of it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.fake.engine import FakeEngine
from gateway.routing.crowding import PERIOD
from tests.faults.clients import CHAT, chat, rest, until
from tests.serving import Answer, Served, serving

MODELS = """
models:
  big: {targets: {first: m}, aliases: [gpt-4]}
  small: {targets: {second: m}}
  hidden: {targets: {second: m}, internal: true}
"""


@contextlib.asynccontextmanager
async def routed(
    tmp_path: Path, routes: str, models: str = MODELS, more: str = ""
) -> AsyncIterator[tuple[Served, FakeEngine, FakeEngine]]:
    async with FakeEngine(models=["m"]) as first, FakeEngine(models=["m"]) as second:
        text = f"""
backends:
  first: {{engine: openai, url: "{first.url}"}}
  second: {{engine: openai, url: "{second.url}"}}
{models}
routes:
{routes}
{more}"""
        environ = {f"KEY_{name.upper()}": f"{name}-key" for name in "abc"}
        async with serving(tmp_path, text, environ=environ) as served:
            yield served, first, second


async def ask(
    served: Served, model: str = "big", headers: dict[str, str] | None = None, **body: Any
) -> Answer:
    return await served.post(CHAT, {**chat(), "model": model, **body}, **(headers or {}))


def model_of(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return answer.headers["x-gateway-model"]


async def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    rules = """
  - {name: batch, match: {model: big, header: {x-tier: batch}}, to: small}
  - {name: streams, match: {model: big, stream: true}, unless: {user: vip}, to: hidden}
"""
    async with routed(tmp_path, rules) as (served, _, _):
        batch = await ask(served, headers={"x_tier": "batch"}, stream=True)
        assert (model_of(batch), batch.headers["x-gateway-route"]) == ("small", "batch")
        stream = await ask(served, stream=True)
        assert (model_of(stream), stream.headers["x-gateway-route"]) == ("hidden", "streams")
        vip = await ask(served, stream=True, user="vip")
        assert model_of(vip) == "big"
        assert "x-gateway-route" not in vip.headers
        by_alias = await ask(served, "gpt-4", headers={"x_tier": "batch"})
        assert by_alias.headers["x-gateway-route"] == "batch"
        assert model_of(await ask(served, "small", stream=True)) == "small"
        decided = "gateway_route_decisions_total"
        assert served.metric(decided, rule="batch", reason="rule", model="small") == 2
        assert served.metric(decided, rule="-", reason="name") == 2


async def test_every_answer_has_the_id_of_its_decision_and_errors_too(tmp_path: Path) -> None:
    async with routed(tmp_path, "  - {name: all, to: small}") as (served, _, second):
        first, other = await ask(served), await ask(served)
        ids = {answer.headers["x-gateway-decision"] for answer in (first, other)}
        assert len(ids) == 2
        told = await served.get(f"/gateway/decisions/{first.headers['x-gateway-decision']}")
        assert told.status == 200
        assert told.json()["rule"] == "all"
        assert (told.json()["asked_for"], told.json()["model"]) == ("big", "small")
        assert (await served.get("/gateway/decisions/none")).status == 404
        second.set(rules=[{"reply": {"status": 400, "body": {"error": {"message": "no"}}}}])
        refused = await ask(served)
        assert refused.status == 400
        assert refused.headers["x-gateway-route"] == "all"
        assert refused.headers["x-gateway-backend"] == "second"
        assert refused.headers["x-gateway-attempts"] == "1"


async def test_a_name_that_only_a_rule_has_can_be_asked_for_while_the_rule_fits(
    tmp_path: Path,
) -> None:
    rules = "  - {name: auto, match: {model: auto, stream: false}, to: {warm: [big, small]}}"
    keys = """
server: {listen: "127.0.0.1:0", auth: keys}
keys:
  all: {value: "${env.KEY_A}"}
  some: {value: "${env.KEY_B}", models: [auto]}
  none: {value: "${env.KEY_C}", models: [small]}
"""
    async with routed(tmp_path, rules, more=keys) as (served, _, _):

        async def asked(key: str, **body: Any) -> Answer:
            return await ask(served, "auto", {"authorization": f"Bearer {key}"}, **body)

        assert model_of(await asked("a-key")) == "big"
        assert model_of(await asked("b-key")) == "big", "where a rule goes is not the key's business"
        assert (await asked("c-key")).status == 404
        nowhere = await asked("a-key", stream=True)
        assert nowhere.status == 404
        assert "no rule says where" in nowhere.json()["error"]["message"]
        for key, names in (("a-key", ["auto", "big", "gpt-4", "small"]), ("b-key", ["auto"])):
            listed = await served.get("/v1/models", authorization=f"Bearer {key}")
            assert sorted(entry["id"] for entry in listed.json()["data"]) == names


async def test_weights_hold_and_a_user_stays(tmp_path: Path) -> None:
    async with routed(tmp_path, "  - {name: ab, to: {weighted: {big: 80, small: 20}}}") as (served, _, _):
        users = [f"user-{number}" for number in range(60)]
        found = [model_of(await ask(served, user=user)) for user in users]
        assert found == [model_of(await ask(served, user=user)) for user in users]
        counts = collections.Counter(found)
        assert 3 <= counts["small"] <= 25


async def test_failover_goes_on_to_the_next_choice(tmp_path: Path) -> None:
    rules = "  - {name: safe, match: {model: big}, to: {failover: [big, {warm: [small]}]}}"
    async with routed(tmp_path, rules) as (served, first, _):
        assert model_of(await ask(served)) == "big"
        await first.down()
        answer = await ask(served)
        assert (model_of(answer), answer.headers["x-gateway-backend"]) == ("small", "second")
        await first.up()


async def test_warm_takes_the_first_model_that_is_loaded(tmp_path: Path) -> None:
    rules = "  - {name: warm, match: {model: big}, to: {warm: [big, small]}}"
    async with routed(tmp_path, rules) as (served, first, _):
        await rest(served)
        await first.down()
        await until(lambda: not served.gateway.pool.backends["first"].usable, "it was probed")
        answer = await ask(served)
        assert (model_of(answer), answer.headers["x-gateway-attempts"]) == ("small", "1")
        assert served.metric("gateway_route_decisions_total", rule="warm", reason="warm", model="small") == 1
        await first.up()


async def test_a_cloud_near_its_rate_limit_overflows_and_others_are_not_looked_at(tmp_path: Path) -> None:
    overflow = "{home: big, to: small, when: {remaining: 5}, hold: 1ms}"
    async with routed(
        tmp_path, f"  - {{name: cloud, match: {{model: big}}, to: {{overflow: {overflow}}}}}"
    ) as (
        served,
        first,
        _,
    ):
        backends = served.gateway.pool.backends
        assert backends["second"].quota is None, "no rule looks at it"

        def tells(left: int, reset: str) -> None:
            limits = {"X-RateLimit-Remaining-Requests": str(left), "X-RateLimit-Reset-Requests": reset}
            first.set(rules=[{"reply": {"headers": limits}}])

        async def goes_to(**body: Any) -> str:
            await asyncio.sleep(PERIOD)
            return model_of(await ask(served, **body))

        tells(6, "10m")
        assert [await goes_to(), await goes_to()] == ["big", "big"]
        tells(5, "10m")
        assert await goes_to(stream=True) == "big", "this answer tells it"
        assert [await goes_to(), await goes_to()] == ["small", "small"]
        told = (await served.post("/v1/route:explain", {**chat(), "model": "big"})).json()
        assert "the number of requests that are left is 5, the bound 5" in told["choice"]
        quota = backends["first"].quota
        assert quota is not None
        quota.forget()
        assert await goes_to() == "big"
        assert quota.left(asyncio.get_running_loop().time()) == 5
        backends["first"].locate(first.url)
        moved = backends["first"].quota
        assert moved is not None
        assert moved.left(0.0) is None, "what is elsewhere has told nothing"
        without = served.gateway.core.snapshot.config.model_copy(update={"routes": ()})
        served.gateway.apply(without)
        assert backends["first"].quota is None


async def test_a_canary_gets_its_share_and_goes_back_by_itself(tmp_path: Path) -> None:
    growth = "steps: [50%, 100%], interval: 1h, samples: 10, within: {errors: 1%}"
    rules = f"  - {{name: trial, match: {{model: big}}, to: {{canary: {{model: small, against: big, {growth}}}}}}}"
    async with routed(tmp_path, rules) as (served, _, second):
        found = collections.Counter([model_of(await ask(served)) for _ in range(40)])
        assert 8 <= found["small"] <= 32
        assert served.metric("gateway_canary_share", route="trial") == 0.5
        told = (await served.post("/v1/route:explain", {**chat(), "model": "big"})).json()
        assert told["choice"][0] == "the canary 'small' gets 0.5 of the requests (growing)"
        second.set(rules=[{"reply": {"status": 500, "body": "{}"}}])
        answers = [await ask(served) for _ in range(60)]
        assert served.metric("gateway_canary_rollbacks_total", route="trial") == 1
        assert served.metric("gateway_canary_share", route="trial") == 0
        assert {model_of(answer) for answer in answers[-10:]} == {"big"}
        assert (await ask(served)).headers["x-gateway-route"] == "trial"


async def test_only_what_was_decided_is_kept(tmp_path: Path) -> None:
    async with routed(tmp_path, "  - {name: auto, match: {model: auto, stream: false}, to: big}") as (
        served,
        _,
        _,
    ):
        decisions = served.gateway.core.snapshot.router.decisions
        for model, stream in (("none", False), ("auto", True)):
            assert (await ask(served, model, stream=stream)).status == 404
        await served.post("/v1/route:explain", {**chat(), "model": "big"})
        assert not decisions._last
        kept = (await ask(served)).headers["x-gateway-decision"]
        assert [decision.id.decode() for decision in decisions._last] == [kept]

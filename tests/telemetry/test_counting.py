"""What becomes of requests is counted once, by its reason, its model, its backend and its key."""

from __future__ import annotations

from pathlib import Path

from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, Client, chat, config, http, rest, until
from tests.serving import Served, serving

KEYS = """
keys:
  team-a: {value: "${env.A}", models: [m]}
  team-b: {value: "${env.B}"}
"""
ENVIRON = {"A": "gw-a-0123456789-0123456789", "B": "gw-b-0123456789-0123456789"}


async def ask(served: Served, body: object, key: str = ENVIRON["A"]) -> int:
    answer = await served.post(CHAT, body, authorization=f"Bearer {key}")
    return answer.status


async def test_requests_and_tokens_are_counted_by_the_name_of_the_key(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"tokens": 3}) as engine,
        serving(tmp_path, config(engine.url, extra=KEYS), ENVIRON) as served,
    ):
        for stream in (False, True):
            assert await ask(served, chat(stream=stream)) == 200
        assert await ask(served, chat(), ENVIRON["B"]) == 200
        assert await ask(served, chat(), "gw-nobody") == 401
        await rest(served)
        count = "gateway_key_requests_total"
        assert served.metric(count, key="team-a", outcome="ok") == 2
        assert served.metric(count, key="team-b", outcome="ok") == 1
        assert served.metric(count, key="-", outcome="client_error") == 1
        assert served.metric(count) == served.metric("gateway_requests_total") == 4
        assert served.metric("gateway_key_tokens_total", key="team-a", direction="out") == 6
        for direction in ("in", "out"):
            by_key = served.metric("gateway_key_tokens_total", direction=direction)
            assert by_key == served.metric("gateway_tokens_total", direction=direction) > 0


async def test_what_the_gateway_itself_refuses_is_counted_by_its_code(tmp_path: Path) -> None:
    broken = [{"match": {"path": CHAT}, "reply": {"status": 500}}]
    async with (
        FakeEngine(models=["up"], rules=broken) as engine,
        serving(tmp_path, config(engine.url, extra=KEYS), ENVIRON) as served,
    ):
        assert await ask(served, chat(), "gw-nobody") == 401
        assert await ask(served, b"{", ENVIRON["B"]) == 400
        assert await ask(served, chat() | {"model": "nobody-knows"}, ENVIRON["B"]) == 404
        assert await ask(served, chat()) == 502
        await rest(served)
        for name in ("gateway_refusals_total", "gateway_key_refusals_total"):
            assert served.metric(name) == 3, "an engine's failure is no refusal of the gateway"
            for reason in ("invalid_api_key", "invalid_json", "model_not_found"):
                assert served.metric(name, reason=reason) == 1
        assert served.metric("gateway_key_refusals_total", key="team-b") == 2


async def test_a_client_that_leaves_is_counted_by_where_its_request_was(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60}) as engine,
        serving(tmp_path, config(engine.url, model="admission: {concurrency: 1}")) as served,
    ):

        async def leave_the_queue() -> None:
            caller = await Client.connect(served.port)
            await caller.send(http(chat(stream=True)))
            await until(lambda: bool(served.metric("gateway_requests_queued")), "it waits")
            caller.leave()

        caller = await Client.connect(served.port)
        await caller.send(http(chat(stream=True)))
        await engine.until(lambda: engine.requests[-1].path == CHAT)
        await leave_the_queue()
        await until(lambda: bool(served.metric("gateway_client_aborts_total")), "it is counted")
        assert served.metric("gateway_client_aborts_total", model="m", backend="-", phase="queue") == 1
        caller.leave()
        await rest(served)
        assert served.metric("gateway_client_aborts_total", backend="engine-0", phase="first_byte") == 1
        assert served.metric("gateway_client_aborts_total") == 2
        assert served.metric("gateway_requests_total", outcome="client_gone") == 2


async def test_a_further_attempt_is_counted_by_what_failed_before(tmp_path: Path) -> None:
    broken = [{"match": {"path": CHAT}, "reply": {"status": 500}}]
    async with (
        FakeEngine(models=["up"], rules=broken) as first,
        FakeEngine(models=["up"]) as second,
        serving(tmp_path, config(first.url, second.url, model="balance: round_robin")) as served,
    ):
        for _ in range(2):
            assert (await served.post(CHAT, chat())).status == 200
        await rest(served)
        assert served.metric("gateway_retries_total", model="m", reason="failed") == 1
        assert served.metric("gateway_failovers_total", backend="engine-0", reason="failed") == 1
        attempts = "gateway_attempts_total"
        assert served.metric(attempts, engine="openai", backend="engine-0", result="failed") == 1
        assert served.metric(attempts, engine="openai", backend="engine-1", result="ok") == 2


async def test_where_a_request_went_is_told_with_its_rule_and_kind_of_engine(tmp_path: Path) -> None:
    extra = "routes: [{name: mine, match: {model: alias}, to: m}]"
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=extra)) as served,
    ):
        for model in ("alias", "m"):
            assert (await served.post(CHAT, chat(stream=True) | {"model": model})).status == 200
        await rest(served)
        for route in ("mine", "-"):
            labels = {"route": route, "model": "m", "backend": "engine-0", "engine": "openai"}
            assert served.metric("gateway_requests_total", outcome="ok", **labels) == 1
            for name in ("request_duration", "time_to_first_token", "overhead"):
                assert served.metric(f"gateway_{name}_seconds_count", **labels) == 1, name

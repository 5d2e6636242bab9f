"""What becomes of requests is counted once, by its reason, its model, its backend and its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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


async def test_what_cannot_be_said_to_an_engine_is_a_refusal_of_the_gateway(tmp_path: Path) -> None:
    wrong = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "odd"}]}]}
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        answer = await served.post("/v1/messages", wrong, **{"x-gateway-translate": "always"})
        assert answer.status == 400
        assert not [one for one in engine.requests if one.method == "POST"]
        await rest(served)
        assert served.metric("gateway_refusals_total", reason="invalid_value") == 1
        assert served.metric("gateway_attempts_total", result="rejected") == 1


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


async def test_tokens_are_told_in_detail_as_far_as_the_engine_tells_them(tmp_path: Path) -> None:
    """What it does not tell has no line; what it tells to be none has one."""
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    detailed = usage | {
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    answers = [
        {"match": {"path": CHAT}, "reply": {"status": 200, "body": said(each)}} for each in (usage, detailed)
    ]
    async with (
        FakeEngine(models=["up"], rules=answers[:1]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        name = "gateway_tokens_detail_total"
        assert (await served.post(CHAT, chat())).status == 200
        await rest(served)
        assert f"\n{name}{{" not in "".join(served.gateway.metrics.pieces())
        engine.set(models=["up"], rules=answers[1:])
        assert (await served.post(CHAT, chat())).status == 200
        await rest(served)
        page = "".join(served.gateway.metrics.pieces())
        assert f'{name}{{backend="engine-0",detail="cached",engine="openai",model="m"}} 0.0' in page
        assert served.metric(name, detail="reasoning") == 2
        assert page.count(f"\n{name}{{") == 2
        assert served.metric("gateway_tokens_total", direction="in") == 18


async def test_bytes_are_counted_in_both_directions(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        whole = await served.post(CHAT, chat())
        await rest(served)
        name = "gateway_bytes_total"
        assert served.metric(name, model="m", direction="sent") > len(str(chat()))
        assert served.metric(name, direction="received") == pytest.approx(len(whole.body), abs=8)
        before = served.metric(name, direction="received")
        stream = await served.post(CHAT, chat(stream=True))
        await rest(served)
        # The client asked for no usage, which the engine's stream has.
        assert served.metric(name, direction="received") - before >= len(stream.body)


async def test_it_is_counted_where_a_request_had_to_be_translated(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine:
        text = config(engine.url, engine.url).replace(
            "engine-1: {engine: openai", "engine-1: {engine: ollama"
        )
        async with serving(tmp_path, text) as served:
            for path in (CHAT, "/v1/messages"):
                await served.post(path, chat(max_tokens=5) | {"model": "engine-0/up"})
            await served.post(CHAT, chat() | {"model": "engine-1/up"})
            await rest(served)
            name = "gateway_translations_total"
            passed = {"engine": "openai", "way": "passed", "reason": "-"}
            assert served.metric(name, dialect="openai", operation="chat", **passed) == 1
            assert served.metric(name, dialect="anthropic", operation="messages", **passed) == 1
            native = {"engine": "ollama", "way": "translated", "reason": "native_api"}
            assert served.metric(name, dialect="openai", operation="chat", **native) == 1


def said(usage: object) -> str:
    """Return a whole chat completion with these counts."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice]}
    return json.dumps(whole | {"usage": usage})

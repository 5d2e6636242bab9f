"""What a fake engine tells of what it saw: clients that leave in any phase, totals, waiting, the control path."""

import asyncio
import json
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Behaviour
from tests.fake.raw import ask, chat, connected, request


@pytest.mark.parametrize(
    ("script", "phase", "events"),
    [
        ({"defaults": {"first_token": 600}}, "waiting", 0),
        ({"defaults": {"prefill": 100}}, "waiting", 0),
        ({"defaults": {"faults": [{"at": "request", "do": "hang"}]}}, "waiting", 0),
        ({"defaults": {"faults": [{"at": "headers", "do": "hang"}]}}, "headers", 0),
        ({"defaults": {"faults": [{"at": "event 3", "do": "hang"}]}}, "streaming", 3),
        ({"defaults": {"gap": 600}}, "streaming", 2),
    ],
)
async def test_the_phase_in_which_the_client_left(script: dict[str, Any], phase: str, events: int) -> None:
    async with FakeEngine(**script) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await engine.until(lambda: engine.requests[0].phase == phase)
        wire.leave()
        (exchange,) = await engine.closed()
        assert (exchange.phase, exchange.events, exchange.outcome) == (phase, events, "aborted")
        assert exchange.closed is not None and exchange.closed >= exchange.arrived
        assert exchange.finished is None


async def test_leaving_a_request_that_is_not_streamed() -> None:
    async with FakeEngine(defaults={"gap": 60}) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)))
        await engine.arrived()
        wire.leave()
        assert (await engine.closed())[0].phase == "waiting"


async def test_a_finished_answer_is_not_an_abandoned_one() -> None:
    async with FakeEngine() as engine:
        await ask(engine, chat())
        (exchange,) = await engine.finished()
        assert (exchange.outcome, exchange.phase, exchange.events, exchange.tokens) == (
            "finished",
            "done",
            7,
            4,
        )
        assert exchange.closed is None and exchange.finished is not None
        assert engine.journal.totals.aborted == 0
        with pytest.raises(TimeoutError):
            await engine.closed(timeout=0.001)
        assert engine.journal.watched == []


async def test_what_was_asked_is_kept() -> None:
    async with FakeEngine() as engine:
        await ask(engine, chat(user="ü"), headers={"X-Request-Id": "abc"})
        (exchange,) = engine.requests
    assert (exchange.method, exchange.path, exchange.number) == ("POST", "/v1/chat/completions", 1)
    assert exchange.headers["x-request-id"] == "abc"
    assert exchange.json() == chat(user="ü")
    assert json.loads(exchange.text) == chat(user="ü")


async def test_stats_over_http() -> None:
    async with FakeEngine() as engine:
        await ask(engine, chat())
        stats = (await ask(engine, path="/_fake/stats", method="GET")).json()
        await ask(engine, path="/_fake/stats", method="DELETE")
        cleared = (await ask(engine, path="/_fake/stats", method="GET")).json()
    counts = ("started", "finished", "aborted", "cut", "tokens", "running", "queued", "refused")
    assert {name: stats[name] for name in counts} == dict.fromkeys(counts, 0) | {
        "started": 1,
        "finished": 1,
        "tokens": 4,
    }
    (row,) = stats["requests"]
    assert (row["phase"], row["outcome"], row["events"], json.loads(row["body"])) == (
        "done",
        "finished",
        7,
        chat(),
    )
    assert row["arrived"] <= row["finished"]
    assert (cleared["started"], cleared["requests"], cleared["open"]) == (0, [], 1)


async def test_a_script_over_http() -> None:
    script = b"rules: [{match: {times: 1}, reply: {status: 418}}]"
    async with FakeEngine() as engine:
        assert (await ask(engine, script, "/_fake/script", "PUT")).status == 200
        assert [(await ask(engine, chat())).status for _ in range(2)] == [418, 200]
        assert (await ask(engine, {"defaults": {"say": "hi"}}, "/_fake/script", "PUT")).status == 200
        assert (await ask(engine, chat(max_tokens=1))).text == "hi"
        assert (await ask(engine, path="/_fake/script", method="DELETE")).status == 200
        assert (await ask(engine, chat(max_tokens=1))).text == "word0"


async def test_a_bad_script_over_http_changes_nothing() -> None:
    async with FakeEngine(models=["kept"]) as engine:
        answer = await ask(engine, {"defaults": {"gap": 5}}, "/_fake/script", "PUT")
        assert answer.status == 400
        assert answer.json()["error"]["message"] == "script:1:15: expected a duration such as 30s: write 5s"
        assert engine.script.models == ("kept",)
        assert (await ask(engine, path="/_fake/nothing", method="GET")).status == 404


async def test_a_new_script_leaves_answers_under_way_alone() -> None:
    async with FakeEngine(defaults={"gap": 0.01}) as engine, connected(engine) as wire:
        wire.send(request(chat(), headers={"connection": "close"}))
        await wire.until(b"word0")
        engine.set(defaults={"say": "other"})
        assert (await ask(engine, chat(max_tokens=1))).text == "other"
        await wire.until(b"word3")


async def test_waiting_ends_with_the_change_and_not_before() -> None:
    async with FakeEngine(defaults={"faults": [{"at": "event 3", "do": "hang"}]}) as engine:
        waiting = asyncio.create_task(engine.until(lambda: engine.requests[0].events > 1))
        arrived = asyncio.create_task(engine.arrived())
        async with connected(engine) as wire:
            assert not waiting.done() and not arrived.done()
            wire.send(request(chat()))
            await asyncio.wait_for(waiting, 5)
            assert len(await arrived) == 1


async def test_groups_of_a_rule_are_put_over_the_defaults_key_by_key() -> None:
    defaults = {"gap": 1, "sse": {"newline": "crlf"}, "http": {"interim": {"count": 3}}}
    rule = {"sse": {"bom": True}, "http": {"interim": {"count": 2}}}
    async with FakeEngine(defaults=defaults, rules=[rule]) as engine:
        found = engine.script.behaviour(engine.script.rules[0])
    assert (found.gap, found.sse.newline, found.sse.bom) == (1, "crlf", True)
    assert found.http.interim is not None and found.http.interim.count == 2
    assert type(found) is Behaviour

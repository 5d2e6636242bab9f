"""What operators see of the gateway as a whole, its models and its running requests; and how a request is cancelled.

Rules:
- The gateway is the real one behind real sockets, the engines are fake ones. Tests wait for states, not for time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from backends.base import Operation
from gateway import running
from gateway.api.overview import MODELS, REQUESTS, STATUS, merged, shown_status
from gateway.fake.engine import FakeEngine
from gateway.request import Exchange, FinishedSink, Register
from gateway.running import MOST, SLICE, Wanted
from gateway.telemetry.timeline import HOPS
from gateway.wire.downstream import AsgiWay
from tests.api.test_admin import KEYS
from tests.faults.clients import until
from tests.faults.support import question
from tests.serving import Answer, Served, serving

BOSS = {"authorization": "Bearer sk-boss"}
TEAM = {"authorization": "Bearer sk-team"}


def config(engine: FakeEngine) -> str:
    return f"""
server: {{listen: "127.0.0.1:0"}}
backends: {{a: {{engine: openai, url: "{engine.url}", models: [m, x]}}}}
models:
  m: {{targets: {{a: {{model: m, weight: 2}}}}, aliases: [alias], fallback: [x], context: 4096,
      admission: {{concurrency: 2, queue: 9}}}}
  x: {{targets: {{a: x}}}}
{KEYS}"""


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Served, FakeEngine]]:
    async with FakeEngine(models=["m", "x"]) as engine:
        engine.set(rules=[{"endless": True, "gap": 0.02, "text": "count"}])
        async with serving(folder, config(engine)) as served:
            yield served, engine


def ask(served: Served, model: str = "m", stream: bool = True, **headers: str) -> asyncio.Task[Answer]:
    return asyncio.create_task(
        served.post("/v1/chat/completions", question(model, stream=stream), **{**TEAM, **headers})
    )


async def requests(served: Served, query: str = "") -> dict[str, Any]:
    answer = await served.get(f"/gateway/requests{query}", **BOSS)
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def cancel(served: Served, id: str) -> Answer:
    return await served.ask("DELETE", f"/gateway/requests/{id}", None, BOSS)


async def test_a_request_is_shown_with_what_is_known_and_cancelled_by_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.api")
    async with stage(tmp_path) as (served, engine):
        stream = ask(served, "alias", x_request_id="job/7")
        await engine.until(lambda: any(exchange.events > 3 for exchange in engine.requests))
        shown = await requests(served)
        [row] = shown["requests"]
        assert shown["total"] == 1
        assert row.pop("age") > 0 and row.pop("tokens") > 0
        assert row == {
            "id": "job/7",
            "key": "team",
            "model": "m",
            "backend": "a",
            "operation": "chat",
            "phase": "stream",
            "attempts": 1,
            "stream": True,
        }
        answer = await cancel(served, "job%2F7")
        assert (answer.status, answer.json()) == (200, {"id": "job/7", "cancelled": 1})
        ended = await asyncio.wait_for(stream, 10)
        assert not ended.whole and "[DONE]" not in ended.events
        error = ended.events[-1]["error"]
        assert (error["code"], error["type"]) == ("cancelled_by_operator", "server_error")
        await engine.until(lambda: any(each.outcome == "aborted" for each in engine.requests))
        assert served.metric("gateway_requests_total", outcome="cancelled") == 1
        assert served.metric("gateway_attempts_total", result="cancelled") == 1
        assert served.metric("gateway_tokens_total", direction="out") > 0
        assert await requests(served) == {"total": 0, "requests": []}
        assert (await cancel(served, "job/7")).error["code"] == "request_not_found"
    assert "request job/7: cancelled by 'boss'" in caplog.messages


async def test_a_request_before_its_first_token_gets_an_answer_that_sdks_do_not_repeat(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as (served, engine):
        engine.set(rules=[{"faults": [{"at": "request", "do": "hang"}]}])
        asked = ask(served, stream=False, x_request_id="silent")
        await engine.until(lambda: any(each.text for each in engine.requests))
        [row] = (await requests(served))["requests"]
        assert (row["phase"], row["tokens"], row["stream"]) == ("first_byte", 0, False)
        assert (await cancel(served, "silent")).status == 200
        answer = await asyncio.wait_for(asked, 10)
        assert (answer.status, answer.error["code"]) == (500, "cancelled_by_operator")
        assert answer.headers["x-should-retry"] == "false"


async def test_one_that_waits_for_a_slot_is_cancelled_where_it_waits(tmp_path: Path) -> None:
    async with stage(tmp_path) as (served, engine):
        held = [ask(served, x_request_id="held") for _ in range(2)]
        await engine.until(lambda: sum(each.events > 0 for each in engine.requests) == 2)
        waiting = ask(served, x_request_id="late")
        await until(lambda: served.metric("gateway_requests_queued") == 1, "one waits")
        assert [row["id"] for row in (await requests(served))["requests"]] == ["held", "held", "late"]
        assert (await requests(served))["requests"][2]["phase"] == "queue"

        [m, x] = (await served.get("/gateway/models", **BOSS)).json()
        assert m == {
            "name": "m",
            "aliases": ["alias"],
            "context": 4096,
            "targets": [{"backend": "a", "model": "m", "weight": 2, "weight_now": 2, "in_flight": 2}],
            "fallbacks": ["x"],
            "queued": 1,
            "slots": 2,
            "slots_held": 2,
        }
        assert (x["name"], x["slots"], x["slots_held"], x["fallbacks"]) == ("x", None, None, [])
        assert x["context"] is None

        status = (await served.get("/gateway/status", **BOSS)).json()
        assert status["phases"] == {"queue": 1, "stream": 2} and status["requests"] == 3
        assert sorted((each["backend"], each["requests"]) for each in status["targets"]) == [
            ("-", 1),
            ("a", 2),
        ]
        assert (await cancel(served, "late")).json()["cancelled"] == 1
        assert (await asyncio.wait_for(waiting, 10)).error["code"] == "cancelled_by_operator"
        # Clients may give several requests the same id: they are one to whoever cancels.
        assert (await cancel(served, "held")).json()["cancelled"] == 2
        await asyncio.gather(*held)


async def test_a_body_that_is_still_read_is_shown_and_cancelled(tmp_path: Path) -> None:
    async with stage(tmp_path) as (served, _):
        reader, writer = await served.connect()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        more = "x-request-id: slow\r\nauthorization: Bearer sk-team\r\ncontent-length: 500\r\n\r\n"
        writer.write((head + more + '{"model":').encode())
        await until(lambda: bool(served.gateway.core.register.running), "the head was read")
        [row] = (await requests(served))["requests"]
        assert (row["id"], row["phase"], row["key"], row["model"]) == ("slow", "receive", "team", "-")
        assert (row["stream"], row["attempts"], row["tokens"]) == (None, 0, 0)
        assert (await cancel(served, "slow")).status == 200
        answer = Answer.read(await asyncio.wait_for(reader.readuntil(b"}}"), 10))
        assert (answer.status, answer.error["code"]) == (500, "cancelled_by_operator")
        writer.close()


async def test_requests_are_filtered_and_counted(tmp_path: Path) -> None:
    async with stage(tmp_path) as (served, engine):
        tasks = [ask(served, x_request_id="m1"), ask(served, "x", x_request_id="x1")]
        tasks.append(ask(served, "x", x_request_id="x2", authorization=BOSS["authorization"]))
        await engine.until(lambda: sum(each.events > 0 for each in engine.requests) == 3)
        for query, ids in (
            ("?model=x", {"x1", "x2"}),
            ("?key=team", {"m1", "x1"}),
            ("?key=team&model=x", {"x1"}),
            ("?backend=a", {"m1", "x1", "x2"}),
            ("?backend=b", set()),
            ("?model=alias", set()),
        ):
            shown = await requests(served, query)
            assert {row["id"] for row in shown["requests"]} == ids and shown["total"] == len(ids), query
        shown = await requests(served, "?limit=1")
        assert (shown["total"], len(shown["requests"])) == (3, 1)
        for bad in ("?limit=0", f"?limit={MOST + 1}", "?limit=x"):
            answer = await served.get(f"/gateway/requests{bad}", **BOSS)
            assert answer.status == 422 and answer.error["param"] == "limit"
        for each in ("m1", "x1", "x2"):
            assert (await cancel(served, each)).status == 200
        await asyncio.gather(*tasks)


async def test_the_status_says_why_the_gateway_is_not_ready(tmp_path: Path) -> None:
    async with stage(tmp_path) as (served, _):
        shown = (await served.get("/gateway/status", **BOSS)).json()
        assert (shown["ready"], shown["reason"], shown["requests"]) == (True, "", 0)
        assert shown["version"] and 0 <= shown["uptime"] < 120 and shown["processes"] == 1
        assert shown["started"].endswith("+00:00")
        await served.post("/gateway/backends/a/drain", {}, **BOSS)
        shown = (await served.get("/gateway/status", **BOSS)).json()
        assert (shown["ready"], shown["reason"]) == (
            False,
            "no backend is ready yet (drained by an operator: a)",
        )
        assert (await served.get("/readyz")).error["message"] == shown["reason"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gateway/status"),
        ("GET", "/gateway/models"),
        ("GET", "/gateway/requests"),
        ("DELETE", "/gateway/requests/x"),
    ],
)
async def test_all_of_it_takes_an_operator_s_key(tmp_path: Path, method: str, path: str) -> None:
    async with stage(tmp_path) as (served, _):
        assert (await served.ask(method, path, None, {})).status == 401
        assert (await served.ask(method, path, None, TEAM)).status == 403
        foreign = {**BOSS, "origin": "http://evil.example"}
        assert (await served.ask(method, path, None, foreign)).status == 403


# pure


class Sink:
    """A sink that counts nothing."""

    def finished(self, exchange: Exchange) -> None: ...


async def many(count: int, sink: FinishedSink) -> Register:
    async def nobody(*message: Any) -> Any:
        raise AssertionError("nothing is sent or received")

    way = AsgiWay(nobody, nobody)
    await way.close()
    register, now = Register(), time.perf_counter_ns()
    for number in range(count):
        exchange = Exchange(way, now - number * 1_000_000, register, sink)
        exchange.id, exchange.operation = b"r%d" % number, Operation.CHAT
        exchange.model = f"m{number % 10}"
    return register


async def test_ten_thousand_requests_never_hold_the_loop() -> None:
    """The loop turns after every slice, and what is done in one turn is some thousand plain steps."""
    sink = Sink()
    register = await many(10_000, sink)
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(turning())
    await asyncio.sleep(0)
    shown = await running.listing(register, Wanted(limit=MOST))
    listed = turns
    summary = await running.summary(register)
    other.cancel()
    assert shown["total"] == 10_000
    assert [row["id"] for row in shown["requests"]] == [f"r{n}" for n in range(9_999, 8_999, -1)]
    assert summary["phases"] == {"receive": 10_000}
    assert summary["targets"][3][1:] == ["-", 1000, 0]
    assert listed >= 10_000 // SLICE and turns - listed >= 10_000 // SLICE - 1


async def test_operators_requests_and_those_that_are_over_are_not_shown() -> None:
    sink = Sink()
    register = await many(2, sink)
    first, _ = sorted(register.running, key=lambda exchange: exchange.id)
    first.over = True
    # What an operator asks for, such as a download of a model, is no operation.
    Exchange(first.way, 0, register, sink).id = b"r9"
    shown = await running.listing(register, Wanted())
    assert [row["id"] for row in shown["requests"]] == ["r1"] and shown["total"] == 1
    assert running.cancel(register, "r0") == 0 and running.cancel(register, "r9") == 0


def test_listings_of_several_processes_are_one() -> None:
    def listing(total: int, *ages: float) -> dict[str, Any]:
        return {"total": total, "requests": [{"id": f"{age}", "age": age} for age in ages]}

    answers = [listing(5, 9.0, 4.0, 1.0), listing(0), listing(7, 8.0, 5.0)]
    one = merged(REQUESTS, {"limit": 4}, answers)
    assert one["total"] == 12
    assert [row["age"] for row in one["requests"]] == [9.0, 8.0, 5.0, 4.0]
    assert merged("cancel", {"id": "x"}, [0, 2, 1]) == 3


def test_the_status_of_several_processes_is_one() -> None:
    facts = {
        "version": "9",
        "config": "4be1",
        "processes": 1,
        "reason": "why",
        "ready": False,
        "phases": {},
        "targets": [],
    }
    one = merged(
        STATUS,
        {},
        [
            {**facts, "started": 20.0, "phases": {"queue": 2}, "targets": [["m", "a", 2, 10]]},
            {**facts, "started": 10.0, "ready": True, "reason": "", "phases": {"queue": 1, "stream": 4}},
            {**facts, "started": 30.0, "targets": [["m", "a", 1, 5], ["m", "b", 1, 1]]},
        ],
    )
    assert one == {
        "version": "9",
        "config": "4be1",
        "started": 10.0,
        "processes": 3,
        "ready": True,
        "reason": "",
        "phases": {"queue": 3, "stream": 4},
        "targets": [["m", "a", 3, 15], ["m", "b", 1, 1]],
    }
    shown = shown_status(one, 100.0)
    assert (shown["uptime"], shown["started"], shown["requests"]) == (90.0, "1970-01-01T00:00:10+00:00", 7)
    assert shown["targets"][0] == {"model": "m", "backend": "a", "requests": 3, "tokens": 15}
    assert merged(STATUS, {}, [{**facts, "started": 1.0}] * 2)["reason"] == "why"
    assert set(itertools.chain(one["phases"])) <= set(HOPS)


def test_the_models_of_several_processes_are_one() -> None:
    def model(name: str, in_flight: int, slots: int | None) -> dict[str, Any]:
        return {
            "name": name,
            "context": 4096 if in_flight == 2 else None,
            "targets": [{"backend": "a", "in_flight": in_flight}],
            "queued": 1,
            "slots": slots,
            "slots_held": None if slots is None else 1,
        }

    answers = [[model("m", 1, 4), model("x", 0, None)], [model("new", 9, 9), model("m", 2, 4)]]
    m, x = merged(MODELS, {}, cast(Any, json.loads(json.dumps(answers))))
    assert (m["targets"][0]["in_flight"], m["queued"], m["slots"], m["slots_held"]) == (3, 2, 8, 2)
    assert (x["name"], x["slots"], x["queued"]) == ("x", None, 1)
    # A process may not have heard yet of the context that an engine tells.
    assert (m["context"], x["context"]) == (4096, None)

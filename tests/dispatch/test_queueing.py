"""Requests that wait for a slot, over real sockets: who goes first, what clients are told, who is refused and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.admission.gate import UNLIMITED, Gate
from gateway.fake.engine import FakeEngine
from tests.faults.clients import client, http, until
from tests.faults.support import sound
from tests.serving import Answer, Served, serving

CHAT = "/v1/chat/completions"
ENDLESS = {"match": {"contains": "endless"}, "text": "count", "tokens": 100_000, "gap": 0.05}
CONFIG = """
server: {{listen: "127.0.0.1:0"}}
backends: {{engine: {{engine: openai, url: "{url}", models: [up]}}}}
models:
  m: {{targets: {{engine: up}}, admission: {{{admission}}}, {more}}}
keys:
  people: {{value: "${{env.PEOPLE}}", priority: high}}
  jobs: {{value: "${{env.JOBS}}", priority: batch}}
  one: {{value: "${{env.ONE}}"}}
  two: {{value: "${{env.TWO}}", weight: 2}}
"""
KEYS = {name.upper(): f"sk-{name}" for name in ("people", "jobs", "one", "two")}


class Scene:
    """A gateway before an engine, for a model with one slot."""

    def __init__(self, served: Served, engine: FakeEngine) -> None:
        self.served = served
        self.engine = engine
        self.tasks: list[asyncio.Task[Answer]] = []

    @property
    def gate(self) -> Gate:
        gate = self.served.gateway.core.snapshot.catalog._plans["m"].gate
        assert gate is not None
        return gate

    async def ask(self, key: str, name: str = "", **headers: str) -> Answer:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "user": name}
        return await self.served.post(CHAT, body, authorization=f"Bearer sk-{key}", **headers)

    async def wait(self, key: str, name: str = "", **headers: str) -> asyncio.Task[Answer]:
        """Let a request wait, behind those that wait already."""
        before = self.gate.waiting
        task = asyncio.create_task(self.ask(key, name, **headers))
        self.tasks.append(task)
        await until(lambda: self.gate.waiting == before + 1, f"{name} waits")
        return task

    @contextlib.asynccontextmanager
    async def occupied(self) -> AsyncIterator[None]:
        """Meanwhile an endless stream has the only slot."""
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "endless"}]}
        stream = asyncio.create_task(self.served.post(CHAT, body, authorization="Bearer sk-one"))
        await until(lambda: not self.gate.has_room, "the slot is taken")
        try:
            yield
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)

    def order(self) -> list[str]:
        """Return the names of the requests in the order in which the engine got them."""
        names = [json.loads(request.body).get("user", "") for request in self.engine.requests if request.body]
        return [name for name in names if name]


@contextlib.asynccontextmanager
async def scene(folder: Path, admission: str = "concurrency: 1", more: str = "") -> AsyncIterator[Scene]:
    async with FakeEngine(models=["up"], rules=[ENDLESS]) as engine:
        text = CONFIG.format(url=engine.url, admission=admission, more=more)
        async with serving(folder, text, KEYS) as served:
            found = Scene(served, engine)
            yield found
            await sound(served)
            assert found.gate.idle
            for account in found.gate._queue._accounts.values():
                assert not account.size and not account.charged, "everything was settled"


async def test_better_classes_go_first_and_keys_in_a_class_take_turns(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with at.occupied():
            for key, name in (
                ("jobs", "jobs 1"), ("one", "one 1"), ("one", "one 2"), ("one", "one 3"),
                ("two", "two 1"), ("people", "people 1"), ("jobs", "jobs 2"), ("two", "two 2"),
            ):  # fmt: skip
                await at.wait(key, name)
            await at.wait("people", "people, lowered", x_gateway_priority="low")
            await at.wait("jobs", "jobs, raised", x_gateway_priority="high")
            shown = {
                priority: at.served.metric("gateway_requests_queued", model="m", priority=priority)
                for priority in ("high", "normal", "low", "batch")
            }
            assert shown == {"high": 1, "normal": 5, "low": 1, "batch": 3}
        answers = await asyncio.gather(*at.tasks)
        assert [answer.status for answer in answers] == [200] * len(answers)
        assert at.order() == [
            "people 1", "one 1", "two 1", "two 2", "one 2", "one 3",
            "people, lowered", "jobs 1", "jobs 2", "jobs, raised",
        ]  # fmt: skip


async def test_an_answer_says_where_its_request_stood_and_how_long_it_waited(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with at.occupied():
            await at.wait("one")
            await at.wait("one")
            await asyncio.sleep(0.03)
        first, second = await asyncio.gather(*at.tasks)
        assert [answer.headers["x-gateway-queue-position"] for answer in (first, second)] == ["1", "2"]
        assert int(second.headers["x-gateway-queue-wait"]) >= 30
        assert "x-gateway-queue-position" not in (await at.ask("one")).headers, "it did not wait"
        assert at.served.metric("gateway_queue_wait_seconds_count", model="m") == 2


async def test_a_full_queue_gives_way_to_a_better_class_and_says_so(tmp_path: Path) -> None:
    async with scene(tmp_path, "concurrency: 1, queue: 1") as at:
        async with at.occupied():
            waiting = await at.wait("jobs", "job")
            full = await at.ask("jobs", "another job")
            assert (full.status, full.error["code"]) == (503, "queue_full")
            assert "1 request waits" in full.error["message"]
            assert int(full.headers["retry-after"]) >= 1
            urgent = asyncio.create_task(at.ask("people", "urgent"))
            displaced = await waiting
            assert (displaced.status, displaced.error["code"]) == (503, "queue_displaced")
            assert displaced.headers["x-gateway-queue-position"] == "1"
        assert (await urgent).status == 200
        assert at.order() == ["urgent"]
        for reason in ("full", "displaced"):
            assert at.served.metric("gateway_queue_refused_total", priority="batch", reason=reason) == 1


async def test_a_request_that_would_come_too_late_is_refused_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with at.occupied():
            soon = await at.wait("one", x_stainless_read_timeout="0.001")
        assert (await soon).status == 200, "nothing was measured yet, so nothing is known"
        at.engine.set(rules=[ENDLESS], defaults={"first_token": 0.03})
        answers = await asyncio.gather(*(at.ask("one") for _ in range(15)))
        assert {answer.status for answer in answers} == {200}
        async with at.occupied():
            late = await at.ask("one", x_stainless_read_timeout="0.005")
            assert (late.status, late.error["code"]) == (503, "queue_deadline")
            assert "1 of 1, about 1 s" in late.error["message"]
            assert int(late.headers["retry-after"]) >= 1
            assert "x-gateway-queue-position" not in late.headers
            await at.wait("one", x_stainless_read_timeout="600")
        assert (await at.tasks[-1]).status == 200
        assert at.served.metric("gateway_queue_refused_total", reason="deadline", priority="normal") == 1


async def test_the_heartbeat_of_a_request_that_waits_says_where_it_stands(tmp_path: Path) -> None:
    async with scene(tmp_path, more="heartbeat: 20ms") as at, client(at.served.port) as caller:
        async with at.occupied():
            await at.wait("people", "first")
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            await caller.send(http(body, "Connection: close", "Authorization: Bearer sk-one"))
            await caller.until(b": queued 2 of 2\n")
        answer = Answer.read(await caller.rest())
        assert answer.whole and answer.body.endswith(b"data: [DONE]\n\n")
        beats, data = answer.body.split(b"\n\n", 1)
        assert b": queued 2 of 2" in beats and data.startswith(b"data: ")
        assert all(line.startswith(b": ") for line in beats.split(b"\n")), "comments only"
        await asyncio.gather(*at.tasks)


async def test_clients_that_leave_the_queue_leave_nothing_behind(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with at.occupied():
            for number in range(8):
                await at.wait(("one", "two", "people", "jobs")[number % 4], str(number))
            for task in at.tasks[::2]:
                task.cancel()
            await until(lambda: at.gate.waiting == 4, "four have left")
        answers = await asyncio.gather(*at.tasks[1::2])
        assert [answer.status for answer in answers] == [200] * 4
        assert sorted(at.order()) == ["1", "3", "5", "7"]


async def test_auto_follows_what_the_engine_tells(tmp_path: Path) -> None:
    async with scene(tmp_path, "") as at:
        assert at.gate.slots == UNLIMITED
        backend = at.served.gateway.pool.backends["engine"]
        loop = asyncio.get_running_loop()
        backend.load.take({"slots": (3.0, 0.0)}, (), 0, loop.time())
        at.served.gateway.pool.announce()
        await until(lambda: at.gate.slots == 3, "the gate has as many slots as the engine")
        backend.load.take({"slots": (1.0, 0.0)}, (), 0, loop.time())
        await until(lambda: at.gate.slots == 1, "it follows though nothing else has happened")
        async with at.occupied():
            await at.wait("one")
        assert (await at.tasks[0]).status == 200

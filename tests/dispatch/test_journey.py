"""What may happen on a request's way that no client or engine does: an adapter's bug, a backend that goes meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.base import Failure, Headers, Reply, Request, StreamDecoder
from backends.dialect.stream import EventStream
from backends.engines.openai import OpenAI
from gateway.fake.engine import FakeEngine
from gateway.request import Exchange
from tests.faults.clients import CHAT, chat, client, config, http, rest, until
from tests.serving import serving


class Buggy(OpenAI):
    """An adapter with a bug."""

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        raise ZeroDivisionError("canary of the bug")


class Unsplicing(EventStream):
    """A decoder with a bug that shows at an event like the one before."""

    def more(self, data: bytes, start: int, end: int) -> bytes | None:
        raise ZeroDivisionError("canary of the short way")


class BuggyInTheMiddle(OpenAI):
    """An adapter whose decoder has a bug."""

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        return Unsplicing(self, request)


async def test_a_bug_on_the_short_way_ends_its_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"tokens": 8, "gap": 0.01}) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        backend = served.gateway.pool.backends["engine-0"]
        sound, backend.engine = backend.engine, BuggyInTheMiddle()
        answer = await served.post(CHAT, chat(stream=True))
        assert not answer.whole
        assert answer.events[-1]["error"]["code"] == "upstream_protocol_error"
        assert "canary of the short way" in caplog.text
        await rest(served)
        backend.engine = sound
        assert (await served.post(CHAT, chat(stream=True))).whole


class Broken:
    """A sink with a bug."""

    def finished(self, exchange: Exchange) -> None:
        raise ZeroDivisionError("canary of the sink")


@pytest.mark.parametrize("headers", [(), ("X-Twice: 1", "X-Twice: 2")], ids=["plain", "odd"])
async def test_a_bug_in_a_sink_holds_no_connection(
    headers: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        sound, served.gateway.core.sink = served.gateway.core.sink, Broken()
        for _ in range(2):
            await caller.send(http(chat(), *headers))
            assert (await caller.answer()).status == 200
        await rest(served)
        assert "canary of the sink" in caplog.text
        served.gateway.core.sink = sound


class Slow(OpenAI):
    """An engine that takes one request at a time."""

    parallel = 1


async def test_a_bug_in_an_adapter_ends_its_request_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        backend = served.gateway.pool.backends["engine-0"]
        sound = backend.engine
        backend.engine = Buggy()
        for _ in range(3):
            answer = await served.post(CHAT, chat())
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
            assert "canary" not in answer.body.decode()
        assert "canary of the bug" in caplog.text
        assert served.metric("gateway_requests_total", outcome="internal_error") == 3
        await rest(served)
        backend.engine = sound
        assert (await served.post(CHAT, chat())).status == 200


async def test_a_backend_that_goes_while_its_slot_is_waited_for(tmp_path: Path) -> None:
    """The request has chosen a backend, waits for its only slot, and then the backend is nowhere: another serves it."""
    async with (
        FakeEngine(models=["up"], defaults={"endless": True, "gap": 0.005}) as first,
        FakeEngine(models=["up"]) as second,
        serving(tmp_path, config(first.url, second.url, model="balance: round_robin")) as served,
    ):
        backend = served.gateway.pool.backends["engine-0"]
        backend.change_engine(Slow())
        other = served.gateway.pool.backends["engine-1"]
        held = served.gateway.pool.backends["engine-1"].upstream
        other.upstream = None
        holder = asyncio.create_task(served.post(CHAT, chat(stream=True)))
        await first.until(lambda: first.requests[-1].path == CHAT)
        waiter = asyncio.create_task(served.post(CHAT, chat()))
        gate = backend.gate
        assert gate is not None
        await until(lambda: gate.waiting == 1, "the second request waits for the slot")
        other.upstream = held
        gone, backend.upstream = backend.upstream, None
        assert gone is not None
        gone.close()
        answer = await asyncio.wait_for(waiter, 10)
        assert (answer.status, answer.headers["x-gateway-backend"]) == (200, "engine-1")
        assert (await holder).whole is False
        await rest(served)


async def test_a_client_that_leaves_before_the_task_has_begun(tmp_path: Path) -> None:
    """A task that is cancelled before its first step never runs: the request must end without its help."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        asked = len(engine.requests)
        [backend] = served.gateway.pool.backends.values()
        assert backend.upstream is not None
        backend.upstream.retire()  # no idle connection is at hand, so a task has to make one
        register = served.gateway.core.register
        await caller.send(http(chat(stream=True)))
        while not register.running:  # noqa: ASYNC110 (one turn of the loop at a time)
            await asyncio.sleep(0)
        [exchange] = register.running
        assert exchange.task is not None
        exchange.way.lost()
        assert exchange.over and not register.running
        await rest(served)
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        assert len(engine.requests) == asked


BODIES: dict[str, Any] = {
    "whole": chat(),
    "stream": chat(stream=True),
    "no messages": {"model": "m"},
    "an unknown model": {**chat(), "model": "nobody"},
    "no JSON": b"{",
    "no object": b"[]",
    "no choices": chat(n=0),
}


@pytest.mark.parametrize("name", BODIES)
async def test_the_front_door_and_the_full_protocol_agree(name: str, tmp_path: Path) -> None:
    """The same request, once plain and once with headers that send it the long way, has the same answer."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        answers = []
        for headers in ((), ("X-Twice: 1", "X-Twice: 2")):
            await caller.send(http(BODIES[name], "X-Request-Id: mine", *headers))
            answers.append(await caller.answer())
        plain, odd = answers
        assert plain.status == odd.status
        own = {"date": "", "x-gateway-decision": ""}
        assert {**plain.headers, **own} == {**odd.headers, **own}
        assert len(plain.body) == len(odd.body)
        assert (plain.status == 200) or plain.body == odd.body


class Unclosable(EventStream):
    """A decoder with a bug that shows at the end of a stream."""

    def close(self) -> bytes:
        raise ZeroDivisionError("canary of the bug")


class BuggyAtTheEnd(OpenAI):
    """An adapter whose decoder has a bug."""

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        return Unclosable(self, request)


async def test_a_bug_at_the_end_of_a_stream_ends_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        backend = served.gateway.pool.backends["engine-0"]
        sound = backend.engine
        backend.engine = BuggyAtTheEnd()
        answer = await served.post(CHAT, chat(stream=True))
        assert not answer.whole
        assert answer.events[-1]["error"]["code"] == "internal_error"
        assert "canary of the bug" in caplog.text
        assert served.metric("gateway_requests_total", outcome="internal_error") == 1
        await rest(served)
        backend.engine = sound
        assert (await served.post(CHAT, chat())).status == 200

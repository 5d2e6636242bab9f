"""Requests behind others on the full protocol: each is answered in its turn, and none cuts the answer before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.clients import Client, chat, client, config, http, rest, said
from tests.serving import Answer, serving

ODD = ("X-Odd: 1", "X-Odd: 2")
"""Header lines that make a request none for the front door."""
LIMITS = "limits: {body: 2KiB}, timeouts: {headers: 100ms, body: 100ms}"
GARBAGE = b"\x00\x01 garbage\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
BAD = {
    "garbage": (GARBAGE, 400, "invalid_http"),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "invalid_host"),
    "another version": (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", 400, "invalid_http"),
    "headers too large": (POST + b"X: " + b"y" * 40_000 + b"\r\n\r\n", 431, "headers_too_large"),
    "a body too large": (POST + b"Content-Length: 5000\r\n\r\n", 413, "request_too_large"),
    "a body that grows too large": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 0x1000,
        413,
        "request_too_large",
    ),
    "a bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_http"),
}


async def refused(caller: Client, status: int, code: str) -> None:
    """Read the refusal that ends the connection."""
    answer = Answer.read(await caller.rest())
    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (status, code, "close")


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request_is_answered_behind_the_good_ones(name: str, tmp_path: Path) -> None:
    data, status, code = BAD[name]
    async with serving(tmp_path, config("http://127.0.0.1:9", server=LIMITS)) as served:
        for good in (1, 3):
            async with client(served.port) as caller:
                await caller.send(http(None, path="/healthz", method="GET") * good + data)
                for _ in range(good):
                    assert (await caller.answer()).json() == {"status": "ok"}
                await refused(caller, status, code)
        await rest(served)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request_does_not_cut_the_stream_before_it(name: str, tmp_path: Path) -> None:
    data, status, code = BAD[name]
    async with (
        FakeEngine(models=["up"], defaults={"say": "one two three", "gap": 0.05}) as engine,
        serving(tmp_path, config(engine.url, server=LIMITS)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=True), *ODD))
        await caller.until(b"one")
        await caller.send(data)
        answer = await caller.answer()
        assert (answer.whole, said(answer).split()) == (True, ["one", "two", "three"])
        await refused(caller, status, code)
        await rest(served)
        assert served.metric("gateway_requests_total", outcome="ok") == 1


@pytest.mark.parametrize("cut", [20, -40, -3])
async def test_what_comes_late_behind_a_stream_does_not_cut_it(cut: int, tmp_path: Path) -> None:
    """A part of the next head, or the head with a part of its body. Its clock begins when its turn comes."""
    late = http(chat("late"), *ODD)
    rules = [{"match": {"contains": "first"}, "say": "one " * 40, "gap": 0.01}]
    async with (
        FakeEngine(models=["up"], defaults={"say": "four five"}, rules=rules) as engine,
        serving(tmp_path, config(engine.url, server=LIMITS)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat("first", stream=True), *ODD))
        await caller.until(b"one")
        await caller.send(late[:cut])
        answer = await caller.answer()
        assert (answer.whole, len(said(answer).split())) == (True, 40)
        await caller.send(late[cut:])
        assert "four" in (await caller.answer()).json()["choices"][0]["message"]["content"]
        # The same, and the rest never comes: that is told, behind the stream.
        await caller.send(http(chat("first", stream=True), *ODD) + late[:cut])
        answer = await caller.answer()
        assert (answer.whole, len(said(answer).split())) == (True, 40)
        await refused(caller, 408, "request_timeout")
        await rest(served)

"""What crosses the gateway beside the bodies: only headers on a list, both ways, and no secret of either side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.clients import chat, client, config, http, rest, said, settled
from tests.serving import Answer, serving

KEYS = 'keys: {a: {value: "${env.A}"}}'
KEY = "sk-cuckoo-of-the-client"
BEARER = f"Authorization: Bearer {KEY}"
OURS = {"x-request-id", "x-gateway-decision", "x-gateway-backend", "x-gateway-model", "x-gateway-attempts"}
FRAMING = {"date", "content-type"}
NOISE = {
    "set-cookie": ["a=b", "c=d"],
    "server": "engine/1.0",
    "x-powered-by": "engine",
    "location": "http://127.0.0.1:1/",
    "www-authenticate": "Basic",
    "proxy-authenticate": "Basic",
    "keep-alive": "timeout=1",
    "connection": "x-hop, close",
    "x-hop": "cuckoo",
    "trailer": "x-after",
    "upgrade": "h2c",
    "alt-svc": 'h3=":1"',
    "access-control-allow-origin": "*",
    "strict-transport-security": "max-age=1",
    "x-request-id": "the-engine's-own",
    "x-gateway-backend": "forged",
    "x-should-retry": "true",
    "retry-after": "1",
}


@pytest.mark.parametrize(
    ("stream", "more", "beside"),
    [
        (True, {}, {"transfer-encoding", "cache-control", "x-accel-buffering"}),
        (False, {}, {"content-length"}),
        (False, {"reply": {"status": 500, "headers": NOISE}}, {"content-length"}),
        (False, {"reply": {"status": 400, "headers": NOISE}}, {"content-length"}),
        (False, {"reply": {"status": 307, "headers": NOISE}}, {"content-length"}),
    ],
)
async def test_only_listed_headers_reach_the_client(
    stream: bool, more: dict[str, Any], beside: set[str], tmp_path: Path
) -> None:
    behaviour = {"reply": {"headers": NOISE}, **more}
    async with (
        FakeEngine(models=["up"], defaults=behaviour) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        for _ in range(2):
            await caller.send(http(chat(stream=stream), "X-Request-Id: mine-1"))
            answer = await caller.answer()
            ours = OURS if answer.status == 200 else OURS - {"x-gateway-model"}
            assert set(answer.headers) == FRAMING | ours | beside
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers.get("x-gateway-backend", "engine-0") == "engine-0"
        engine.set(models=["up"])
        await settled(served, engine)


SENT = (
    "Cookie: session=cuckoo",
    "X-Forwarded-For: 10.0.0.1",
    "X-Real-Ip: 10.0.0.1",
    "Forwarded: for=10.0.0.1",
    "X-User-Id: cuckoo",
    "X-Tenant: cuckoo",
    "X-Conversation-Id: cuckoo",
    "X-Api-Key: cuckoo",
    "Api-Key: cuckoo",
    "Proxy-Authorization: Basic cuckoo",
    "OpenAI-Organization: cuckoo",
    "Referer: https://cuckoo/",
    "User-Agent: cuckoo",
    "Accept: text/cuckoo",
    "Accept-Encoding: gzip",
    "Te: trailers",
    "Connection: X-Hop",
    "X-Hop: cuckoo",
    "Baggage: cuckoo=1",
    "Range: bytes=0-1",
    "If-None-Match: cuckoo",
    "X-Gateway-Backend: cuckoo",
)
TRACE = ("Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate: a=1,b=2")


@pytest.mark.parametrize("stream", [True, False])
async def test_only_listed_headers_reach_the_engine(stream: bool, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=KEYS), {"A": KEY}) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=stream), BEARER, "X-Request-Id: mine-1", *SENT, *TRACE))
        assert (await caller.answer()).status == 200
        asked = engine.requests[-1]
        assert dict(asked.headers) == {
            "host": engine.url.removeprefix("http://"),
            "authorization": "Bearer backend-secret",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(asked.body)),
            "x-request-id": "mine-1",
            "traceparent": TRACE[0].partition(": ")[2],
            "tracestate": TRACE[1].partition(": ")[2],
        }
        assert "cuckoo" not in asked.text


async def test_without_a_key_of_its_own_a_backend_gets_none(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine:
        plain = config(engine.url, extra=KEYS).replace(", api_key: backend-secret", "")
        async with serving(tmp_path, plain, {"A": KEY}) as served, client(served.port) as caller:
            await caller.send(http(chat(), BEARER))
            assert (await caller.answer()).status == 200
            assert "authorization" not in engine.requests[-1].headers


@pytest.mark.parametrize("value", ["caf\xe9", "\xff\xfe", "a" * 5000, "x\ty\xa0"])
@pytest.mark.parametrize("name", ["Traceparent", "Tracestate", "X-Request-Id"])
async def test_a_header_that_cannot_be_passed_on_is_left_out(name: str, value: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(), f"{name}: {value}"))
        answer = await caller.answer()
        assert answer.status == 200
        assert answer.headers["x-request-id"].startswith("req-")
        asked = engine.requests[-1].headers
        assert asked["x-request-id"] == answer.headers["x-request-id"]
        assert not {"traceparent", "tracestate"} & set(asked)


@pytest.mark.parametrize("wanted", ["a", "A-b_c.d:e/f+g=", "0" * 128])
async def test_a_harmless_request_id_is_kept(wanted: str, tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        for body in (chat(), chat(stream=True), {"model": "none", "messages": [1]}, b"{"):
            answer = await served.post("/v1/chat/completions", body, x_request_id=wanted)
            assert answer.headers["x-request-id"] == wanted


@pytest.mark.parametrize("wanted", ["a b", "a;b", "<a>", '"a"', "{a}", "0" * 129, "a,b", "%0d%0a", "\xe9"])
async def test_any_other_request_id_is_replaced(wanted: str, tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        answers = [await served.post("/v1/chat/completions", chat(), x_request_id=wanted) for _ in range(3)]
        ids = {answer.headers["x-request-id"] for answer in answers}
        assert len(ids) == 3
        assert all(each.startswith("req-") for each in ids)


# A connection that goes on


async def test_a_connection_carries_one_stream_after_the_other(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"text": "echo"}) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        for number in range(30):
            await caller.send(http(chat(f"nonce{number}", stream=number % 3 > 0)))
            answer = await caller.answer()
            text = said(answer) if number % 3 else answer.json()["choices"][0]["message"]["content"]
            assert text.strip() == f"nonce{number}"
        assert len(served.server.server_state.connections) == 1
        await settled(served, engine)


async def test_nothing_follows_on_a_connection_whose_stream_broke(tmp_path: Path) -> None:
    """The second request waits behind a stream that is cut: it is never answered, and never asked of the engine."""
    async with (
        FakeEngine(models=["up"], rules=[{"faults": [{"at": "event 3", "do": "reset"}]}]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        asked = len(engine.requests)
        await caller.send(http(chat(stream=True)) * 2)
        data = await caller.rest()
        assert data.count(b"HTTP/1.1 ") == 1
        broken = Answer.read(data)
        assert not broken.whole
        assert broken.events[-1]["error"]["code"] == "upstream_reset"
        assert len(engine.requests) == asked + 1
        engine.set(models=["up"])
        await settled(served, engine)


# The heartbeat


async def test_a_heartbeat_answers_at_once_and_beats_until_there_is_content(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"first_token": 60}) as first,
        FakeEngine(models=["up"], defaults={"first_token": 60}) as second,
        serving(
            tmp_path, config(first.url, second.url, model="heartbeat: 20ms, balance: round_robin")
        ) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=True), "Connection: close"))
        await caller.until(b"\r\n\r\n", b": keep-alive\n\r\n")
        assert caller.received.startswith(b"HTTP/1.1 200")
        assert b"data:" not in caller.received
        # Content is still to come, so another engine may take over.
        [busy] = [e for e in (first, second) if any(r.outcome == "running" for r in e.requests)]
        for engine in (first, second):
            engine.set(models=["up"], defaults={"say": "taken over"})
        await busy.down()
        answer = Answer.read(await caller.rest())
        assert answer.whole
        beats, data = answer.body.split(b"\n\n", 1)
        assert set(beats.split(b"\n")) == {b": keep-alive"}, (
            "one line each, and one empty line after the last"
        )
        assert b": keep-alive" not in data
        assert b"taken" in data
        assert data.endswith(b"data: [DONE]\n\n")
        assert set(answer.headers) == {
            "date", "content-type", "cache-control", "x-accel-buffering", "x-request-id", "x-gateway-decision",
            "transfer-encoding", "connection",
        }  # fmt: skip
        await rest(served)
        assert served.metric("gateway_requests_total", outcome="ok") == 1
        await busy.up()


async def test_after_a_heartbeat_failures_are_told_in_the_stream(tmp_path: Path) -> None:
    rules = [{"first_token": 0.1, "reply": {"status": 500}}]
    async with (
        FakeEngine(models=["up"], rules=rules) as engine,
        serving(tmp_path, config(engine.url, model="heartbeat: 20ms")) as served,
        client(served.port) as caller,
    ):
        await caller.send(http(chat(stream=True)))
        answer = Answer.read(await caller.rest())
        assert (answer.status, answer.whole) == (200, False)
        [event] = [line for line in answer.body.splitlines() if line.startswith(b"data: ")]
        assert json.loads(event[6:])["error"]["code"] == "upstream_error"
        # What is wrong with the request itself is known before the first beat, and requests without a stream have none.
        assert (await served.post("/v1/chat/completions", chat(stream=1))).status == 400
        assert (await served.post("/v1/chat/completions", chat())).status == 502
        # What is known at once is told by its status.
        engine.set(
            models=["up"],
            rules=[{"match": {"contains": "reset"}, "faults": [{"at": "request", "do": "reset"}]}],
        )
        assert (await served.post("/v1/chat/completions", chat("reset", stream=True))).status == 502
        engine.set(models=["up"])
        await settled(served, engine)

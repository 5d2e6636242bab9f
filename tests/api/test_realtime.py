"""Realtime over a WebSocket: a real client and a real server, and the gateway between them."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from gateway.errors import GatewayError, Own
from tests.serving import Served, serving

CONFIG = """
backends:
  a: {{engine: vllm, url: "{url}", api_key: sesame}}
models:
  heard: {{targets: {{a: org/own}}, admission: {{concurrency: 2}}}}
  other: {{targets: {{a: org/own}}}}
keys:
  user: {{value: "${{env.USER}}", models: [heard]}}
  alien: {{value: "${{env.ALIEN}}", models: [other]}}
defaults: {{timeouts: {{idle: {idle}}}}}
"""
ENVIRON = {"USER": "sk-the-users-own-key", "ALIEN": "sk-the-aliens-key"}
KEY = {"Authorization": f"Bearer {ENVIRON['USER']}"}
CARD = {"object": "list", "data": [{"id": "org/own", "object": "model"}]}


@dataclass
class Engine:
    """What came to the engine's side."""

    server: Server
    asked: list[Request] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    closed: list[tuple[int | None, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        port = next(iter(self.server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def engine(
    handler: Callable[[ServerConnection], Any] | None = None, status: int | None = None, **settings: Any
) -> AsyncIterator[Engine]:
    """Serve as an engine that echoes, or does what `handler` does; with `status` it refuses WebSockets."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            made.heard.append(message)
            await socket.send(message)

    async def handle(socket: ServerConnection) -> None:
        try:
            await (handler or echo)(socket)
        finally:
            await socket.wait_closed()
            made.closed.append((socket.close_code, socket.close_reason or ""))

    def other(socket: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" not in request.headers:
            body = json.dumps(CARD).encode()
            headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
            return Response(200, "OK", headers, body)
        made.asked.append(request)
        return None if status is None else socket.respond(http.HTTPStatus(status), "no\n")

    async with serve(handle, "127.0.0.1", 0, process_request=other, **settings) as server:
        made = Engine(server)
        yield made


@contextlib.asynccontextmanager
async def between(folder: Path, made: Engine, idle: str = "60s") -> AsyncIterator[Served]:
    text = CONFIG.format(url=made.url, idle=idle)
    async with serving(folder, text, ENVIRON, alone=False) as served:
        yield served


def client(served: Served, path: str = "/v1/realtime?model=heard", **settings: Any) -> connect:
    settings = {"additional_headers": KEY, "proxy": None, **settings}
    return connect(f"ws://127.0.0.1:{served.port}{path}", **settings)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (what is waited for tells nobody)
            await asyncio.sleep(0.01)


def counted(served: Served, outcome: str) -> float:
    return served.metric("gateway_requests_total", operation="realtime", outcome=outcome)


async def test_messages_pass_in_both_directions(tmp_path: Path) -> None:
    async with engine() as made, between(tmp_path, made) as served:
        async with client(served, additional_headers={**KEY, "Cookie": "x=1"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-gateway-backend"] == "a"
            assert socket.response.headers["x-request-id"]
            for message in ("hello", b"\x00\xff", "x" * 70_000, ""):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["in ", "two ", "parts"])
            assert await socket.recv() == "in two parts"
            backend = served.gateway.pool.backends["a"]
            assert backend.in_flight == 1
            assert counted(served, "ok") == 0
        await until(lambda: counted(served, "ok") == 1)
        await until(lambda: made.closed)
        assert (made.closed, backend.in_flight) == ([(1000, "")], 0)
        (asked,) = made.asked
        assert asked.path == "/v1/realtime?model=org%2Fown"
        assert asked.headers["Authorization"] == "Bearer sesame"
        assert ENVIRON["USER"] not in str(asked.headers) and "Cookie" not in asked.headers


async def test_the_sdk_of_openai(tmp_path: Path) -> None:
    async def speak(socket: ServerConnection) -> None:
        await socket.send(
            json.dumps({"type": "session.created", "event_id": "e", "session": {"type": "realtime"}})
        )
        said = json.loads(await socket.recv())
        await socket.send(json.dumps({"type": "input_audio_buffer.cleared", "event_id": said["type"]}))

    async with engine(speak) as made, between(tmp_path, made) as served:
        sdk = openai.AsyncOpenAI(api_key=ENVIRON["USER"], base_url=f"{served.url}/v1")
        async with sdk, sdk.realtime.connect(model="heard") as connection:
            assert (await connection.recv()).type == "session.created"
            await connection.input_audio_buffer.clear()
            event: Any = await connection.recv()
            assert (event.type, event.event_id) == ("input_audio_buffer.cleared", "input_audio_buffer.clear")
        await until(lambda: counted(served, "ok") == 1)


async def test_a_browser_sends_its_key_as_a_subprotocol(tmp_path: Path) -> None:
    names = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{ENVIRON['USER']}")]
    async with engine() as made, between(tmp_path, made) as served:
        # The engine chooses none of the subprotocols, with which no browser would be content.
        async with client(served, additional_headers={}, subprotocols=names) as socket:
            assert socket.subprotocol == "realtime"
            await socket.send("hello")
            assert await socket.recv() == "hello"
        (asked,) = made.asked
        assert asked.headers["Sec-WebSocket-Protocol"] == "realtime"
        assert ENVIRON["USER"] not in str(asked.headers)


async def test_pings_pass_to_the_other_side(tmp_path: Path) -> None:
    pinged = asyncio.Event()

    async def ping(socket: ServerConnection) -> None:
        await (await socket.ping(b"engine"))
        pinged.set()
        await socket.wait_closed()

    async with (
        engine(ping, ping_interval=None) as made,
        between(tmp_path, made) as served,
        client(served, ping_interval=None) as socket,
    ):
        await asyncio.wait_for(await socket.ping(b"client"), 10)
        await asyncio.wait_for(pinged.wait(), 10)


REFUSED: dict[str, tuple[str, dict[str, str], int, str]] = {
    "no key": ("/v1/realtime?model=heard", {}, 401, "missing_api_key"),
    "a wrong key": ("/v1/realtime?model=heard", {"Authorization": "Bearer sk-wrong"}, 401, "invalid_api_key"),
    "another's model": (
        "/v1/realtime?model=heard",
        {"Authorization": f"Bearer {ENVIRON['ALIEN']}"},
        404,
        "model_not_found",
    ),
    "an unknown model": ("/v1/realtime?model=none", KEY, 404, "model_not_found"),
    "no model": ("/v1/realtime", KEY, 400, "missing_field"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_error_before_the_switch_is_an_answer(name: str, tmp_path: Path) -> None:
    path, headers, status, code = REFUSED[name]
    async with engine() as made, between(tmp_path, made) as served:
        with pytest.raises(InvalidStatus) as refused:
            await client(served, path, additional_headers=headers)
        answer = refused.value.response
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body)["error"]["code"] == code
        assert not made.asked


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 426),
        ({"upgrade": "websocket"}, 426),
        ({"upgrade": "h2c", "connection": "Upgrade"}, 426),
        ({"upgrade": "websocket", "connection": "Upgrade", "sec_websocket_version": "8"}, 426),
        ({"upgrade": "websocket", "connection": "Upgrade", "sec_websocket_version": "13"}, 400),
        (
            {
                "upgrade": "websocket",
                "connection": "Upgrade",
                "sec_websocket_version": "13",
                "sec_websocket_key": "short",
            },
            400,
        ),
    ],
)
async def test_what_is_no_handshake(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    async with engine() as made, between(tmp_path, made) as served:
        lines = {"authorization": KEY["Authorization"], **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        request = f"GET /v1/realtime?model=heard HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n"
        reader, writer = await served.connect()
        writer.write(request.encode())
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 %d " % status) and b"invalid_websocket" in answer
        assert not made.asked
        assert (await served.post("/v1/realtime?model=heard", {}, **KEY)).status == 405


@pytest.mark.parametrize("status", [403, 404])
async def test_an_engine_without_it(status: int, tmp_path: Path) -> None:
    async with engine(status=status) as made, between(tmp_path, made) as served:
        with pytest.raises(InvalidStatus) as refused:
            await client(served)
        answer = refused.value.response
        assert answer.status_code == 400
        assert json.loads(answer.body)["error"]["code"] == "not_supported"


async def test_an_engine_that_is_gone_before_is_an_error_with_its_status(tmp_path: Path) -> None:
    text = CONFIG.format(url="http://127.0.0.1:9", idle="60s")
    async with serving(tmp_path, text, ENVIRON) as served:
        with pytest.raises(InvalidStatus) as refused:
            await client(served)
        assert refused.value.response.status_code in (502, 503)


async def test_an_engine_that_breaks_off_is_no_good_end(tmp_path: Path) -> None:
    async def break_off(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.abort()

    async with engine(break_off) as made, between(tmp_path, made) as served:
        async with client(served) as socket:
            await socket.send("x")
            with pytest.raises(ConnectionClosedError) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        await until(lambda: counted(served, "upstream_error") == 1)


async def test_the_engine_closes_with_its_own_code(tmp_path: Path) -> None:
    async def leave(socket: ServerConnection) -> None:
        await socket.close(4321, "enough")

    async with engine(leave) as made, between(tmp_path, made) as served:
        async with client(served) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "enough")
        await until(lambda: counted(served, "ok") == 1)


async def test_a_client_that_vanishes_frees_the_engine(tmp_path: Path) -> None:
    async with engine() as made, between(tmp_path, made) as served:
        socket = await client(served)
        await socket.send("x")
        assert await socket.recv() == "x"
        socket.transport.abort()
        await until(lambda: made.closed)
        await until(lambda: counted(served, "client_gone") == 1)
        assert served.gateway.pool.backends["a"].in_flight == 0


async def test_one_in_which_nothing_passes_is_closed(tmp_path: Path) -> None:
    async with engine(ping_interval=None) as made, between(tmp_path, made, "400ms") as served:
        async with client(served, ping_interval=None) as socket:
            for _ in range(6):
                await socket.send("x")
                assert await socket.recv() == "x"
                await asyncio.sleep(0.15)
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
        assert "nothing was said" in closed.value.rcvd.reason
        assert served.gateway.pool.backends["a"].breaker.open is False


async def test_a_drain_closes_those_that_do_not_end(tmp_path: Path) -> None:
    async with engine() as made, between(tmp_path, made) as served:
        async with client(served) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
            for exchange in list(served.gateway.core.register.running):
                exchange.interrupt(GatewayError(Own.DRAINING, "the gateway is shutting down"))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the gateway is shutting down")


async def test_a_slot_is_held_as_long_as_it_is_open(tmp_path: Path) -> None:
    async with engine() as made, between(tmp_path, made) as served:
        first, second = await client(served), await client(served)
        waiting = asyncio.create_task(_opened(served))
        await asyncio.sleep(0.2)
        assert not waiting.done() and len(made.asked) == 2
        await first.close()
        third = await asyncio.wait_for(waiting, 10)
        for socket in (second, third):
            await socket.close()


async def _opened(served: Served) -> ClientConnection:
    return await client(served)


async def test_neither_side_is_read_faster_than_the_other_takes_it(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    size, count = 1 << 20, 40

    async def pour(socket: ServerConnection) -> None:
        await socket.recv()
        await go_on.wait()
        total = 0
        while total < size * count:
            total += len(await socket.recv())
        for _ in range(count):
            await socket.send(b"y" * size)

    limits: dict[str, Any] = {"max_size": None, "compression": None, "ping_interval": None}
    async with engine(pour, **limits) as made, between(tmp_path, made) as served:
        async with client(served, **limits) as socket:
            await socket.send("begin")
            sending = asyncio.create_task(_poured(socket, size, count))
            await asyncio.sleep(1)
            # The engine reads nothing, so most of it is still with the client.
            assert not sending.done()
            go_on.set()
            await asyncio.wait_for(sending, 30)
            await asyncio.sleep(0.5)
            received = 0
            while received < size * count:
                received += len(await asyncio.wait_for(socket.recv(), 30))
            assert received == size * count
        await until(lambda: counted(served, "ok") == 1)


async def _poured(socket: ClientConnection, size: int, count: int) -> None:
    for _ in range(count):
        await socket.send(b"x" * size)

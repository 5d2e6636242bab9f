"""The same application under a server that is not ours: plain ASGI, driven by hand.

The harness is a server's side of ASGI reduced to what matters here: `receive` gives what the client does, `send` takes
what it gets and can be as slow as the client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import file as configuration
from gateway.fake.engine import FakeEngine
from gateway.wire.downstream import BUFFER, StreamAborted
from tests.faults.clients import CHAT, chat, config, http, until
from tests.serving import Answer, idle

Message = MutableMapping[str, Any]


class Exchange:
    """One request as a foreign server would run it."""

    def __init__(
        self, gateway: Gateway, body: Any, path: str = CHAT, method: str = "POST", cut: bool = False
    ) -> None:
        """With `cut` the client leaves after the first piece of the body."""
        _, _, data = http(body).partition(b"\r\n\r\n")
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.complete = False
        self.reading = asyncio.Event()
        """Cleared, the client takes nothing."""
        self.reading.set()
        self.fails: OSError | None = None
        """What `send` raises."""
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        for start in range(0, len(data), 100):
            part = {"body": data[start : start + 100], "more_body": start + 100 < len(data)}
            self._incoming.put_nowait({"type": "http.request", **part})
            if cut:
                self.disconnect()
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "2",
            "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "scheme": "https", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("192.0.2.1", 1), "server": ("192.0.2.2", 443), "state": {},
        }  # fmt: skip
        self.task = asyncio.create_task(gateway(scope, self._incoming.get, self._send))

    def disconnect(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def done(self) -> Answer:
        """Wait for the application; the answer as it stands then."""
        async with asyncio.timeout(5):
            await self.task
        return self.answer

    @property
    def answer(self) -> Answer:
        return Answer(self.status, self.headers, b"".join(self.parts), self.complete)

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        if self.fails is not None:
            raise self.fails
        assert not self.complete, "something was sent behind the end"
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status
            self.parts.append(message.get("body", b""))
            self.complete = not message.get("more_body", False)


@contextlib.asynccontextmanager
async def application(folder: Path, text: str) -> AsyncIterator[Gateway]:
    """Yield the application between its lifespan's start and end. Afterwards nothing is held and no task is left."""
    file = folder / "gateway.yaml"
    file.write_text(text)
    before = asyncio.all_tasks()
    gateway = Gateway(configuration.load(file, {}))
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(gateway({"type": "lifespan", "state": {}}, incoming.get, outgoing.put))
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    async with asyncio.timeout(20):
        await gateway.ready()
    try:
        yield gateway
        await until(lambda: gateway.core.dispatcher.budget.active == 0, "no request is active")
        await idle(gateway)
    finally:
        incoming.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait_for(running, 20)
    await until(lambda: asyncio.all_tasks() <= before, "no task is left")


def outcome(gateway: Gateway, word: str) -> float:
    cells = gateway.metrics.requests.finished.cells
    return sum(cell.value for labels, cell in cells.items() if labels[-1] == word)


async def test_answers_and_streams(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, application(tmp_path, config(engine.url)) as gateway:
        whole = await Exchange(gateway, chat()).done()
        assert (whole.status, whole.whole) == (200, True)
        assert whole.json()["choices"][0]["message"]["content"]
        assert int(whole.headers["content-length"]) == len(whole.body)
        stream = await Exchange(gateway, chat(stream=True)).done()
        assert (stream.status, stream.whole, stream.events[-1]) == (200, True, "[DONE]")
        assert "transfer-encoding" not in stream.headers
        assert "connection" not in stream.headers
        large = await Exchange(gateway, chat("x" * 50_000)).done()
        assert large.status == 200
        assert outcome(gateway, "ok") == 3


async def test_errors(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, application(tmp_path, config(engine.url)) as gateway:
        for body, path, method, status in (
            (b"{", CHAT, "POST", 400),
            ({**chat(), "model": "none"}, CHAT, "POST", 404),
            (None, CHAT, "GET", 405),
            (None, "/v1/none", "GET", 404),
            (b"x" * (10 << 20) + b"x", CHAT, "POST", 413),
        ):
            answer = await Exchange(gateway, body, path, method).done()
            assert (answer.status, answer.whole) == (status, True)
            assert answer.error["message"]
            assert answer.headers["x-request-id"]


async def test_a_stream_that_breaks_is_not_ended_properly(tmp_path: Path) -> None:
    rules = [{"faults": [{"at": "event 3", "do": "reset"}]}]
    async with (
        FakeEngine(models=["up"], rules=rules) as engine,
        application(tmp_path, config(engine.url)) as gateway,
    ):
        exchange = Exchange(gateway, chat(stream=True))
        with pytest.raises(StreamAborted):
            await exchange.done()
        assert not exchange.complete
        assert exchange.answer.events[-1]["error"]["code"] == "upstream_reset"
        assert outcome(gateway, "upstream_error") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_the_client_leaves(stream: bool, tmp_path: Path) -> None:
    async with (
        FakeEngine(
            models=["up"], defaults={"endless": True, "gap": 0.005} if stream else {"first_token": 60}
        ) as engine,
        application(tmp_path, config(engine.url)) as gateway,
    ):
        for turn in range(20):
            exchange = Exchange(gateway, chat(stream=stream))
            if stream:
                await until(lambda exchange=exchange: len(exchange.parts) > 2, "the stream runs")  # type: ignore[misc]
            else:
                await engine.until(
                    lambda: engine.requests[-1].path == CHAT and engine.requests[-1].outcome == "running"
                )
            exchange.disconnect()
            await engine.closed(turn + 1)
            await exchange.done()
        assert outcome(gateway, "client_gone") == 20


async def test_a_server_whose_send_fails_counts_as_a_client_that_left(tmp_path: Path) -> None:
    """Some servers tell it by an OSError from `send` and nowhere else."""
    async with (
        FakeEngine(models=["up"], defaults={"endless": True, "gap": 0.005}) as engine,
        application(tmp_path, config(engine.url)) as gateway,
    ):
        exchange = Exchange(gateway, chat(stream=True))
        await until(lambda: len(exchange.parts) > 2, "the stream runs")
        exchange.fails = BrokenPipeError()
        await engine.closed()
        await exchange.done()
        assert outcome(gateway, "client_gone") == 1


async def test_the_client_leaves_within_its_body(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine, application(tmp_path, config(engine.url)) as gateway:
        asked = len(engine.requests)
        exchange = Exchange(gateway, chat("x" * 1000), cut=True)
        await exchange.done()
        assert exchange.status == 0
        assert len(engine.requests) == asked
        assert outcome(gateway, "client_gone") == 1


async def test_a_slow_client_pauses_the_engine_and_misses_nothing(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults={"say": "x" * 1000, "tokens": 20_000}) as engine,
        application(tmp_path, config(engine.url)) as gateway,
    ):
        exchange = Exchange(gateway, chat(stream=True, max_tokens=20_000))
        await until(lambda: len(exchange.parts) > 0, "the stream begins")
        exchange.reading.clear()
        taken = sum(map(len, exchange.parts))
        upstream = gateway.pool.backends["engine-0"].upstream
        assert upstream is not None
        [connection] = upstream._open
        await until(lambda: connection.paused, "the engine's socket is paused")
        assert engine.requests[-1].outcome == "running"
        assert engine.requests[-1].bytes_sent - taken < BUFFER + (16 << 20)
        exchange.reading.set()
        answer = await exchange.done()
        assert (answer.whole, answer.events[-1]) == (True, "[DONE]")
        assert answer.body.count(b"x" * 1000) == 20_000


async def test_the_server_stops(tmp_path: Path) -> None:
    """It cancels the application's task: the client is told, and the stream gets no proper end."""
    async with (
        FakeEngine(models=["up"], defaults={"endless": True, "gap": 0.005}) as engine,
        application(tmp_path, config(engine.url)) as gateway,
    ):
        exchange = Exchange(gateway, chat(stream=True))
        await until(lambda: len(exchange.parts) > 2, "the stream runs")
        exchange.task.cancel()
        with pytest.raises(StreamAborted):
            await exchange.done()
        assert not exchange.complete
        assert exchange.answer.events[-1]["error"]["code"] == "draining"
        await engine.closed()

"""The gateway is told to stop: what runs may finish, what takes too long is told, and nobody is left in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from gateway import serve
from gateway.fake.engine import FakeEngine
from tests.faults.clients import Client, at_rest, chat, client, config, http, said, until
from tests.serving import Answer, serving

GATEWAY = Path(sys.executable).with_name("gateway")
TWENTY = {"tokens": 20, "gap": 0.03}
ENDLESS = {"endless": True, "gap": 0.01}


async def ready(caller: Client) -> int:
    """Return the status of `/readyz`."""
    await caller.send(http(None, path="/readyz", method="GET"))
    return (await caller.answer()).status


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 (another process' state has no event)
            await asyncio.sleep(0.05)


async def test_readiness_ends_at_once_on_connections_that_exist(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as balancer,
    ):
        assert await ready(balancer) == 200
        served.gateway.drain()
        assert await ready(balancer) == 503
        assert (await served.get("/healthz")).status == 200


async def test_running_requests_finish_and_new_connections_are_refused(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=TWENTY) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as streaming,
        client(served.port) as waiting,
        client(served.port) as idle,
    ):
        assert await ready(idle) == 200
        await streaming.send(http(chat(stream=True)))
        await waiting.send(http(chat()))
        await streaming.until(b"data: ")
        served.server.on_signal()
        assert await idle.rest() == b"", "an idle connection is closed"
        await until(lambda: not _accepts(served.port), "new connections are refused")
        answers = [Answer.read(await each.rest()) for each in (streaming, waiting)]
        assert [(answer.status, answer.whole) for answer in answers] == [(200, True), (200, True)]
        assert answers[0].events[-1] == "[DONE]"
        assert len(said(answers[0]).split()) == 20
        assert served.metric("gateway_requests_total", outcome="ok") == 2


async def test_what_takes_longer_is_told_and_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stream gets the error event and no proper end; a request without an answer yet gets 503, a queued one too."""
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        serving(
            tmp_path, config(engine.url, server="drain: 300ms", model="admission: {concurrency: 2}")
        ) as served,
        client(served.port) as streaming,
        client(served.port) as waiting,
        client(served.port) as queued,
    ):
        await streaming.send(http(chat(stream=True)))
        await streaming.until(b"data: ")
        engine.set(models=["up"], defaults={"first_token": 60})
        await waiting.send(http(chat()))
        await until(lambda: served.metric("gateway_requests_in_flight") == 2, "two are at the engine")
        await queued.send(http(chat()))
        await until(lambda: served.metric("gateway_requests_queued") == 1, "one is queued")
        served.server.on_signal()
        cut = Answer.read(await streaming.rest())
        assert (cut.status, cut.whole) == (200, False)
        assert cut.events[-1]["error"]["code"] == "draining"
        assert b"[DONE]" not in cut.body
        for caller in (waiting, queued):
            answer = Answer.read(await caller.rest())
            assert (answer.status, answer.error["code"], answer.whole) == (503, "draining", True)
            assert int(answer.headers["retry-after"]) >= 1
        await engine.closed(2)
        assert served.metric("gateway_requests_total", outcome="overloaded") == 3
        assert served.metric("gateway_requests_queued") == 0
    told = [(record.name, record.getMessage()) for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        (
            "gateway.serve",
            "stopping: requests that still run: 3 (until 0.3 s after the signal; another signal ends them now)",
        ),
        ("gateway.serve", "requests that still run after 0.3 s get an error now: 3"),
    ]


async def test_how_many_are_waited_for_is_told_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "TELL", 0.01)
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        serving(tmp_path, config(engine.url, server="drain: 20s")) as served,
        client(served.port) as first,
        client(served.port) as second,
    ):
        for each in (first, second):
            await each.send(http(chat(stream=True)))
            await each.until(b"data: ")
        served.server.on_signal()

        def told(count: int) -> int:
            return caplog.text.count(f"stopping: requests that still run: {count} (until 20 s after")

        await until(lambda: told(2) == 1, "two are told")
        first.leave("RST")
        await until(lambda: told(1) == 1, "one is told")
        second.leave("RST")
        await until(lambda: not served.gateway.core.register.running, "both have ended")
        assert (told(2), told(1), told(0)) == (1, 1, 0)


async def test_a_client_that_reads_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer fills the buffers and is never taken. An open connection would keep the event loop from closing."""
    monkeypatch.setattr(serve, "PARTING", 0.1)
    async with (
        FakeEngine(models=["up"], defaults={"say": "x" * (8 << 20)}) as engine,
        serving(tmp_path, config(engine.url, server="drain: 100ms")) as served,
        client(served.port, receive_buffer=4096) as silent,
    ):
        await silent.send(http(chat()))
        await engine.finished()
        await until(lambda: at_rest(served), "the request is over for the gateway")
        left = served.server.server_state.connections
        assert len(left) == 1
        served.server.on_signal()
        await until(lambda: not left, "its connection is closed")


# In a process of its own


@contextlib.asynccontextmanager
async def process(
    folder: Path,
    text: str,
    environ: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """`gateway serve`, and its port. Nothing it says on stderr may be a traceback."""
    file = folder / "gateway.yaml"
    file.write_text(text)
    made = await asyncio.create_subprocess_exec(
        GATEWAY, "serve", file,
        env=os.environ | (environ or {}), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=prepare,
    )  # fmt: skip
    assert made.stdout is not None and made.stderr is not None
    try:
        first = await asyncio.wait_for(made.stdout.readline(), 30)
        port = int(first.rsplit(b":", 1)[1].split()[0])
        await until(lambda: _accepts(port), "it accepts connections", 30)
        yield made, port
    finally:
        if made.returncode is None:
            made.kill()
        _, log = await made.communicate()
    assert b"Traceback" not in log, log.decode()
    assert b"Exception" not in log, log.decode()


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def is_ready(caller: Client) -> bool:
    return await ready(caller) == 200


async def works(port: int) -> bool:
    """One chat request on a connection of its own."""
    async with client(port) as caller:
        with contextlib.suppress(ConnectionError):
            await caller.send(http(chat(), "Connection: close"))
        return (await caller.rest()).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "drain"),
    [
        ([signal.SIGTERM], "300ms"),
        ([signal.SIGINT], "0s"),
        ([signal.SIGTERM, signal.SIGTERM], "60s"),
        ([signal.SIGTERM, signal.SIGINT], "60s"),
    ],
)
async def test_signals(signals: list[signal.Signals], drain: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        process(tmp_path, config(engine.url, server=f"drain: {drain}")) as (gateway, port),
        client(port) as caller,
    ):
        await caller.send(http(chat(stream=True)))
        await caller.until(b"data: ")
        for number in signals:
            gateway.send_signal(number)
            await until(lambda: not _accepts(port), "it stops accepting")
        cut = Answer.read(await caller.rest())
        assert not cut.whole
        assert cut.events[-1]["error"]["code"] == "draining"
        assert await asyncio.wait_for(gateway.wait(), 20) == 0
        await engine.closed()


@pytest.mark.slow
async def test_hanging_up_reads_the_config_anew_and_stops_nothing(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"], defaults=ENDLESS) as engine,
        process(tmp_path, config(engine.url)) as (gateway, port),
        client(port) as caller,
    ):
        await caller.send(http(chat(stream=True)))
        await caller.until(b"data: ")
        assert gateway.stderr is not None
        for _ in range(2):
            gateway.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while b"(SIGHUP)" not in await gateway.stderr.readline():
                    assert gateway.returncode is None
        caller.received = b""
        await caller.until(b"data: ")
        for _ in range(2):
            gateway.send_signal(signal.SIGTERM)
            await until(lambda: not _accepts(port), "it stops accepting")
        assert await asyncio.wait_for(gateway.wait(), 20) == 0


@pytest.mark.slow
async def test_killed_and_started_again_on_the_same_port(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], defaults=ENDLESS) as engine:
        async with process(tmp_path, config(engine.url)) as (gateway, port), client(port) as caller:
            await caller.send(http(chat(stream=True)))
            await caller.until(b"data: ")
            gateway.kill()
            await gateway.wait()
            cut = Answer.read(await caller.rest())
            assert not cut.whole
            await engine.closed()
        engine.set(models=["up"])
        again = config(engine.url).replace("127.0.0.1:0", f"127.0.0.1:{port}")
        async with process(tmp_path, again) as (gateway, same):
            assert same == port
            assert await works(port)


@pytest.mark.slow
async def test_without_an_engine_it_starts_and_says_so(tmp_path: Path) -> None:
    """One backend down: it serves with the other. All down: it runs, is not ready, and serves once one is there."""
    async with FakeEngine(models=["up"]) as engine:
        await engine.down()
        async with process(tmp_path, config("http://127.0.0.1:9", engine.url)) as (_, port):
            async with client(port) as balancer:
                assert await ready(balancer) == 503
                await engine.up()
                await eventually(lambda: is_ready(balancer))
            assert await works(port)


async def status(client: Client) -> int | None:
    """Return the status of the answer to a request; None where the connection was closed to make room."""
    try:
        await client.send(http(chat()))
        return (await client.answer()).status
    except (AssertionError, OSError):
        return None


@pytest.mark.slow
async def test_few_file_descriptors(tmp_path: Path) -> None:
    """More clients than the process may have files: as many as it is made for are served, and it recovers."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    async with (
        FakeEngine(models=["up"]) as engine,
        process(tmp_path, config(engine.url), prepare=few) as (gateway, port),
    ):
        assert await works(port)
        many = [await Client.connect(port) for _ in range(120)]
        limit = 64 // 2 - 16
        assert [await status(each) for each in many[:limit]] == [200] * limit
        assert 200 not in [await status(each) for each in many[limit:]]
        for each in many:
            each.leave()
        await eventually(lambda: works(port))
        assert gateway.returncode is None


@pytest.mark.slow
async def test_the_environment_changes_nothing(tmp_path: Path) -> None:
    """Proxies are not asked, and no locale or encoding makes a line fail."""
    async with FakeEngine() as proxy, FakeEngine(models=["up", "modèle-é"]) as engine:
        environ = {
            name: proxy.url
            for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
            for name in (each, each.lower())
        }
        environ |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TZ": "Pacific/Chatham"}
        plain = config(engine.url).partition("models:\n  m:")[0].replace(", models: [up]", "")
        async with process(tmp_path, plain, environ) as (gateway, port), client(port) as caller:
            await eventually(lambda: is_ready(caller))
            await caller.send(http({**chat(), "model": "up"}))
            assert (await caller.answer()).status == 200
            await caller.send(http({**chat(), "model": "modèle-é"}))
            assert (await caller.answer()).status == 200
            await caller.send(http({**chat(), "model": "modèle-è"}))
            assert (await caller.answer()).status == 404
            await engine.down()
            await caller.send(http({**chat(), "model": "up"}))
            assert (await caller.answer()).status == 502
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.wait(), 20) == 0
            assert proxy.requests == []

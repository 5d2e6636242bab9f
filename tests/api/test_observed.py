"""Metrics and probes on a port of their own, and behind a key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import aside
from gateway.fake.engine import FakeEngine
from tests.certificates import pair
from tests.config.files import lines
from tests.faults.clients import chat, client, config, http, until
from tests.reload.watched import text as reloading
from tests.reload.watched import watched
from tests.serving import Answer, Served, serving

KEYS = """
keys:
  team: {value: "${env.TEAM}"}
  scrape: {value: "${env.SCRAPE}", metrics: true}
  admin: {value: "${env.ADMIN}", admin: true}
"""
ENVIRON = {name: f"sk-{name.lower()}" for name in ("TEAM", "SCRAPE", "ADMIN")}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


async def ask(port: int, path: str, *headers: str, method: str = "GET") -> Answer:
    async with client(port) as made:
        await made.send(http(None, "Connection: close", *headers, path=path, method=method))
        return Answer.read(await made.rest())


def bearer(name: str) -> str:
    return f"Authorization: Bearer {ENVIRON[name]}"


async def test_the_port_has_metrics_and_probes_and_nothing_else(tmp_path: Path, port: int) -> None:
    server = f'metrics: {{listen: "127.0.0.1:{port}"}}'
    async with serving(tmp_path, config(NOWHERE, server=server, extra=KEYS), ENVIRON) as served:
        page = await ask(port, "/metrics")
        assert (page.status, b"gateway_build_info" in page.body) == (200, True)
        assert [(await ask(port, path)).status for path in ("/healthz", "/health", "/ping", "/readyz")] == [
            200, 200, 200, 503,
        ]  # fmt: skip
        assert (await ask(port, "/metrics", method="HEAD")).status == 200
        assert (await ask(port, "/metrics", method="POST")).status == 405
        for path in ("/", "/docs", "/v1/models", "/gateway/backends", "/openapi.json", "/v1/metrics", "/%2e"):
            answer = await ask(port, path, bearer("ADMIN"))
            assert (answer.status, answer.error["code"]) == (404, "unknown_url"), path
        asked = http(chat(), bearer("ADMIN"), "Connection: close")
        async with client(port) as made:
            await made.send(asked)
            assert Answer.read(await made.rest()).status == 404
        # The main port keeps the probes, and shows metrics to operators.
        assert (await served.get("/healthz")).status == 200
        assert (await served.get("/metrics")).error["code"] == "missing_api_key"
        assert (await ask(served.port, "/metrics", bearer("SCRAPE"))).error["code"] == "admin_required"
        assert (await ask(served.port, "/metrics", bearer("ADMIN"))).status == 200
        # What is no HTTP is refused and counted there too.
        async with client(port) as made:
            await made.send(b"\x16\x03\x01\r\n\r\n")
            assert Answer.read(await made.rest()).status == 400
        assert served.metric("gateway_refused_total", reason="invalid_http") == 1


@pytest.mark.parametrize("apart", [True, False])
async def test_metrics_behind_a_key(tmp_path: Path, port: int, apart: bool) -> None:
    server = f'metrics: {{auth: keys, {f"""listen: "127.0.0.1:{port}" """ if apart else ""}}}'
    async with serving(tmp_path, config(NOWHERE, server=server, extra=KEYS), ENVIRON) as served:
        where = port if apart else served.port
        for headers, status, code in (
            ((), 401, "missing_api_key"),
            (("Authorization: Bearer sk-wrong",), 401, "invalid_api_key"),
            ((bearer("TEAM"),), 403, "metrics_required"),
        ):
            answer = await ask(where, "/metrics", *headers)
            assert (answer.status, answer.error["code"]) == (status, code)
        for name in ("SCRAPE", "ADMIN"):
            assert (await ask(where, "/metrics", bearer(name))).status == 200
        assert (await ask(where, "/healthz")).status == 200
        assert (await ask(where, "/metrics/", bearer("TEAM"))).status in (403, 404)


async def test_pages_of_other_sites_do_not_read_metrics(tmp_path: Path, port: int) -> None:
    """Without keys. On loopback only this machine's own names are answered, beyond it every name."""
    for host, status in (("127.0.0.1", 403), ("0.0.0.0", 200)):
        text = config(NOWHERE, server=f'metrics: {{listen: "{host}:{port}"}}')
        async with serving(tmp_path, text), client(port) as made:
            await made.send(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            assert Answer.read(await made.rest()).status == status


async def test_it_is_plain_beside_tls_and_answers_while_the_gateway_drains(tmp_path: Path, port: int) -> None:
    made = pair(tmp_path)
    server = f'{made.yaml}, metrics: {{listen: "127.0.0.1:{port}"}}'
    slow = {"tokens": 1000, "gap": "20ms"}
    async with (
        FakeEngine(models=["up"], defaults=slow) as engine,
        serving(tmp_path, config(engine.url, server=server)) as served,
    ):
        assert (await ask(port, "/readyz")).status == 200
        _, writer = await asyncio.open_connection(
            "127.0.0.1", served.port, ssl=made.trusting(), server_hostname="localhost"
        )
        writer.write(http(chat(stream=True)))
        await until(lambda: engine.journal.totals.running == 1, "the engine is asked")
        async with client(port) as idle:
            served.server.stop()
            assert (await ask(port, "/readyz")).status == 503
            assert (await ask(port, "/metrics")).status == 200
            writer.transport.abort()
            assert await idle.rest() == b""


async def test_no_more_connections_than_scrapers_need(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "CONNECTIONS", 2)
    server = f'metrics: {{listen: "127.0.0.1:{port}"}}'
    async with serving(tmp_path, config(NOWHERE, server=server)), client(port) as one, client(port) as two:
        for each in (one, two):
            await each.send(http(path="/healthz", method="GET"))
            await each.answer()
        assert (await ask(port, "/healthz")).status == 503


async def test_a_reload_moves_it_and_a_port_that_is_taken_is_tried_again(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "AGAIN", 0.05)

    def server(metrics: str) -> str:
        return f'server: {{listen: "127.0.0.1:0", auth: none, {metrics}}}\n'

    def served_there() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    async with (
        FakeEngine(models=["m"]) as engine,
        watched(tmp_path, reloading(engine, server=server(""))) as gateway,
    ):
        served: Served = gateway.served
        with taken(port):
            await gateway.write(reloading(engine, server=server(f'metrics: {{listen: "127.0.0.1:{port}"}}')))
            await until(lambda: bool(caplog.records), "it is logged")
            assert (await served.get("/metrics")).status == 200  # nobody is left without metrics
            await asyncio.sleep(0.3)
            said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            [line] = said
            assert line.startswith("metrics have no port of their own yet: cannot listen on 127.0.0.1:")
        await until(lambda: gateway.gateway.core.has_aside, "it listens")
        assert (await ask(port, "/metrics")).status == 200
        await gateway.write(reloading(engine, server=server("")))
        await until(lambda: not gateway.gateway.core.has_aside, "it is closed")
        assert not served_there()
        assert (await served.get("/metrics")).status == 200


def test_a_port_that_is_taken_is_an_error_at_the_start(tmp_path: Path, port: int) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(config(NOWHERE, server=f'metrics: {{listen: "127.0.0.1:{port}"}}'))
    with taken(port):
        # A process of its own: it sets up the log.
        command = [sys.executable, "-m", "gateway", "serve", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; `server.metrics.listen`" in ended.stderr
    )


BACKENDS = "\nbackends: {a: {engine: openai, url: 'http://h:1'}}\n"


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (
            "auth: keys",
            "1:26: there are no keys: make one with `gateway key new` and give it `metrics: true`",
        ),
        ("listen: '127.0.0.1:0'", "1:28: needs a port that others know: 0 takes any"),
        (
            "listen: '127.0.0.1:8080'",
            "1:28: 127.0.0.1:8080 is taken by 'server.listen': choose another port",
        ),
        ("listen: '0.0.0.0:8080'", "1:28: 0.0.0.0:8080 is taken by 'server.listen': choose another port"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(metrics: str, told: str, tmp_path: Path) -> None:
    assert lines(tmp_path, f"server: {{metrics: {{{metrics}}}}}{BACKENDS}") == [told]

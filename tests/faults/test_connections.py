"""Connections to engines: those that cannot be made, those that went stale, and those that must never be used again."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from gateway.wire import names, upstream
from tests.faults import peers
from tests.faults.clients import client, http, until
from tests.faults.support import CONFIG, FAULTY, HEALTHY, Stage, asked, question, stage, text_of
from tests.serving import Answer

LARGE: dict[str, Any] = {"user": "u" * (9 << 20)}
"""Makes a request larger than what the sockets of both ends hold."""
STOLEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n" + b'"stolen"'


async def check_unreachable(
    at: Stage, code: str = "upstream_connect_error", status: int = 502, **more: Any
) -> None:
    """Check that the other engine answers where there is one, and that else the client hears why."""
    for stream in (False, True):
        answer = await at.ask("pair", stream=stream, **more)
        assert (answer.status, text_of(answer), answer.whole) == (200, HEALTHY, True)
        assert answer.headers["x-gateway-backend"] == "healthy"
    answer = await at.ask("alone", **more)
    assert (answer.status, answer.error["code"]) == (status, code)
    # It was tried once: the client may try it again, but after a time limit, which would only be reached once more.
    assert answer.headers.get("x-should-retry") == ("false" if status == 504 else None)


async def test_an_engine_that_is_gone(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        await at.faulty.down()
        answer = await at.ask("pair")
        assert (text_of(answer), answer.headers["x-gateway-attempts"]) == (HEALTHY, "2")
        await check_unreachable(at)
        assert at.backend().breaker.open
        await at.faulty.up()
        assert text_of(await at.ask("alone")) == FAULTY


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.usefixtures("short_probes")
async def test_a_backlog_that_is_full(scheme: str, tmp_path: Path) -> None:
    with peers.full_backlog() as port:
        async with stage(tmp_path, url=f"{scheme}://127.0.0.1:{port}", clocks="connect: 200ms") as at:
            await check_unreachable(at)


@pytest.mark.usefixtures("short_probes")
async def test_a_handshake_that_hangs(tmp_path: Path) -> None:
    with peers.silent() as port:
        async with stage(tmp_path, url=f"https://127.0.0.1:{port}", clocks="connect: 200ms") as at:
            await check_unreachable(at)


async def test_tls_asked_of_a_plain_engine(tmp_path: Path) -> None:
    async with (
        peers.reading_little() as port,
        stage(tmp_path, url=f"https://127.0.0.1:{port}", clocks="connect: 300ms") as at,
    ):
        await check_unreachable(at)


UNTRUSTED = {
    "nobody vouches for it": ("127.0.0.1", False, False, "unable to get local issuer certificate"),
    "another host's": ("elsewhere.test", False, True, "IP address mismatch"),
    "expired": ("127.0.0.1", True, True, "certificate has expired"),
}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
@pytest.mark.parametrize("name", UNTRUSTED)
async def test_a_certificate_that_is_not_to_be_trusted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client hears which backend fails, the log says why, and nobody tries again and again."""
    host, expired, vouched, why = UNTRUSTED[name]
    made, key, authority = await asyncio.to_thread(peers.certificate, tmp_path, host, expired=expired)
    if vouched:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with (
        peers.speaking_tls(made, key) as (port, came),
        stage(tmp_path, url=f"https://127.0.0.1:{port}") as at,
    ):
        await check_unreachable(at)
        told = [line for line in caplog.messages if "request req-" in line]
        assert len(told) == at.attempts(result="connect") == at.attempts() == 1
        assert all("TLS certificate is not to be trusted" in line and why in line for line in told)
        assert at.backend().health is Health.DOWN
        assert not any(connection.asked for connection in came)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
async def test_a_certificate_of_ones_own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, key, authority = await asyncio.to_thread(peers.certificate, tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with (
        peers.speaking_tls(made, key) as (port, _),
        stage(tmp_path, url=f"https://127.0.0.1:{port}") as at,
    ):
        assert text_of(await at.ask("alone")) == "secret"


async def test_a_name_is_looked_up_for_each_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not known, then is; that moves; that has an address where nobody answers beside one that does."""
    found: list[list[str]] = []

    def look_up(name: str, port: int) -> list[str]:
        assert name == "engine.test"
        if not found[0]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found[0]

    async with FakeEngine(models=["m"], host="127.0.0.2", defaults={"say": FAULTY}) as engine:
        port = engine.url.rpartition(":")[2]
        url = f"http://engine.test:{port}"
        found.append([])
        monkeypatch.setattr(upstream, "system_look_up", look_up)
        async with stage(tmp_path, url=url) as at:
            answer = await at.ask("alone")
            assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")
            assert answer.error["message"] == (
                "the engine's host name is not known (model 'alone' at backend 'faulty')"
            )
            found[0] = ["127.0.0.1", "127.0.0.2"]
            assert text_of(await at.ask("alone")) == FAULTY
            connections = at.backend().upstream
            assert connections is not None
            connections.close()
            found[0] = ["127.0.0.1"]
            assert (await at.ask("alone")).status == 502
            found[0] = ["127.0.0.2"]
            assert text_of(await at.ask("alone")) == FAULTY


@pytest.mark.parametrize("failing", ["error", "hang"])
async def test_a_look_up_that_fails_uses_the_last_good_addresses(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, over = threading.Event(), threading.Event()
    well.set()

    def look_up(name: str, port: int) -> list[str]:
        if well.is_set():
            return ["127.0.0.1"]
        if failing == "hang":
            over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(upstream, "system_look_up", look_up)
    monkeypatch.setattr(names, "PATIENCE", 0.05)
    async with (
        FakeEngine(models=["m"], defaults={"say": FAULTY}) as engine,
        stage(tmp_path, url=engine.url.replace("127.0.0.1", "engine.test")) as at,
    ):
        try:
            assert text_of(await at.ask("alone")) == FAULTY
            well.clear()
            for _ in range(3):
                connections = at.backend().upstream
                assert connections is not None
                connections.close()
                answer = await at.ask("alone")
                assert (text_of(answer), answer.headers["x-gateway-attempts"]) == (FAULTY, "1")
            assert at.backend().health is Health.READY
        finally:
            over.set()


async def test_a_name_that_was_never_found_blames_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(name: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(upstream, "system_look_up", look_up)
    async with FakeEngine() as engine:
        url = engine.url.replace("127.0.0.1", "engine.test")
        one = CONFIG.replace("failures: 2", "failures: 1").replace(
            "breaker:", "retry: {{attempts: 1}}\n  breaker:"
        )
        async with stage(tmp_path, url=url, config=one) as at:
            for _ in range(3):
                answer = await at.ask("alone")
                assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")
                assert "x-should-retry" not in answer.headers
                assert not at.backend().breaker.open
            for _ in range(10):
                at.backend().note(Health.READY)  # as if it had been found once
                assert text_of(await at.ask("pair")) == HEALTHY, "it costs no attempt"
            assert at.served.metric("gateway_failovers_total", backend="faulty", reason="unresolved") > 0


def look_ups() -> list[threading.Thread]:
    """Return the threads that ask the system's resolver."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("look up ")]


@pytest.mark.usefixtures("short_probes")
async def test_a_resolver_that_hangs_is_one_thread_and_the_connect_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    looking: list[str] = []

    def look_up(name: str, port: int) -> list[str]:
        looking.append(name)
        answered.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr(upstream, "system_look_up", look_up)
    async with FakeEngine(models=["m"], defaults={"say": FAULTY}) as engine:
        url = engine.url.replace("127.0.0.1", "slow.test")
        try:
            async with stage(tmp_path, url=url, clocks="connect: 200ms") as at:
                answers = await asyncio.gather(*(at.ask("alone") for _ in range(20)))
                assert {answer.error["code"] for answer in answers} == {"upstream_connect_error"}
                assert {answer.error["message"] for answer in answers} == {
                    "the engine's host name could not be looked up in time (model 'alone' at backend 'faulty')"
                }
                assert looking == ["slow.test"]
                assert len(look_ups()) == 1
                answered.set()
                await until(lambda: not look_ups(), "the look-up is over")
                assert text_of(await at.ask("alone")) == FAULTY
        finally:
            answered.set()


async def test_a_name_that_no_dns_can_hold(tmp_path: Path) -> None:
    async with stage(tmp_path, url=f"http://{'a' * 64}.example:80") as at:
        await check_unreachable(at)


@pytest.mark.parametrize("do", ["close", "reset"])
async def test_a_stale_connection_costs_no_attempt(do: str, tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.faulty.set(
            rules=[{"match": {"after": 1, "times": 1}, "faults": [{"at": "request", "do": do}]}],
            defaults={"say": FAULTY},
        )
        for _ in range(2):
            answer = await at.ask("alone")
            assert (text_of(answer), answer.headers["x-gateway-attempts"]) == (FAULTY, "1")
        first, stale, again = asked(at.faulty, "alone")
        assert first.connection == stale.connection != again.connection
        assert at.attempts(result="ok") == at.attempts() == 2


async def test_a_stale_connection_is_excused_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.faulty.set(
            rules=[{"match": {"after": 1}, "faults": [{"at": "request", "do": "close"}]}],
            defaults={"say": FAULTY},
        )
        assert (await at.ask("alone")).status == 200
        assert (await at.ask("alone")).error["code"] == "upstream_reset"
        assert len(asked(at.faulty, "alone")) == 3


async def test_connections_the_engine_closed_are_forgotten(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.faulty.set(keep_alive=0.02, defaults={"say": FAULTY})
        await asyncio.gather(*(at.ask("alone") for _ in range(5)))
        await at.faulty.until(lambda: at.faulty.journal.totals.open == 0)
        upstream = at.backend().upstream
        assert upstream is not None
        await until(lambda: upstream.open == upstream.idle == 0, "the connections are forgotten")
        assert text_of(await at.ask("alone")) == FAULTY


@pytest.mark.parametrize("late", [0, 0.02])
async def test_an_answer_nobody_asked_for_reaches_nobody(late: float, tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        pause = [{"at": "end", "do": "hang", "duration": late}] if late else []
        at.misbehave(faults=[*pause, {"at": "end", "do": "raw", "data": STOLEN}])
        for stream in (False, True, False):
            assert text_of(await at.ask("alone", stream=stream)) == FAULTY
            await at.faulty.until(lambda: not at.faulty.journal.totals.open)
        assert at.attempts(result="ok") == at.attempts() == 3


async def test_an_engine_that_does_not_read(tmp_path: Path) -> None:
    clocks = "send: 300ms"
    async with (
        peers.reading_little() as port,
        stage(tmp_path, url=f"http://127.0.0.1:{port}", clocks=clocks) as at,
    ):
        await check_unreachable(at, "upstream_timeout_send", 504, **LARGE)


async def test_an_engine_that_answers_before_it_has_read(tmp_path: Path) -> None:
    early = b"HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    async with peers.reading_little(early) as port, stage(tmp_path, url=f"http://127.0.0.1:{port}") as at:
        for _ in range(2):
            assert (await at.ask("alone", **LARGE)).status == 413
            upstream = at.backend().upstream
            assert upstream is not None
            assert upstream.idle == 0


async def test_the_time_to_the_first_byte_begins_when_the_request_is_sent(tmp_path: Path) -> None:
    async with stage(tmp_path, clocks="send: 50s, first_byte: 200ms") as at:
        at.misbehave(faults=[{"at": "request", "do": "hang"}])
        answer = await at.ask("alone", stream=True, **LARGE)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")


async def test_a_connection_whose_client_could_not_keep_up_is_read_again(tmp_path: Path) -> None:
    """A large answer fills the client's socket, which pauses the engine's; the next client must not wait for it."""
    async with stage(tmp_path) as at:
        at.misbehave(say="x" * (24 << 20))
        async with client(at.served.port) as slow:
            await slow.send(http(question("alone"), "Connection: close"))
            await at.faulty.until(
                lambda: [e.outcome for e in asked(at.faulty, "alone")] == ["finished"], timeout=30
            )
            await until(lambda: not at.backend().in_flight, "the attempt is over")
            at.misbehave()
            assert text_of(await at.ask("alone")) == FAULTY
            first, second = asked(at.faulty, "alone")
            assert first.connection == second.connection
            answer = Answer.read(await slow.rest())
            assert (answer.whole, len(text_of(answer))) == (True, 24 << 20)

"""TLS at the front door: real clients, clients that misbehave, and the ends of answers, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway.__main__ import main
from gateway.fake.engine import FakeEngine
from tests.certificates import Pair, pair
from tests.faults.clients import CHAT, at_rest, chat, client, config, until
from tests.faults.clients import http as request
from tests.serving import Answer, Served, serving

LARGE = "z" * (6 << 20)
"""More than the buffers of two sockets hold, so that most of it waits in the gateway."""


@pytest.fixture
def certificate(tmp_path: Path) -> Pair:
    return pair(tmp_path)


@contextlib.asynccontextmanager
async def secure(
    certificate: Pair, server: str = "", **engine: Any
) -> AsyncIterator[tuple[Served, FakeEngine]]:
    """Serve `m` over TLS."""
    settings = ", ".join(filter(None, (certificate.yaml, server)))
    async with (
        FakeEngine(models=["up"], **engine) as made,
        serving(certificate.folder, config(made.url, server=settings)) as served,
    ):
        yield served, made


@contextlib.contextmanager
def connected(served: Served, trusting: ssl.SSLContext, receive_buffer: int = 0) -> Iterator[ssl.SSLSocket]:
    """Connect as a program in a thread does. An end without TLS' end mark raises SSLEOFError."""
    plain = socket.socket()
    plain.settimeout(20)
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.connect(("127.0.0.1", served.port))
    with trusting.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as made:
        yield made


def rest_of(sock: ssl.SSLSocket) -> bytes:
    """Read to TLS' end mark."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def whole(content: str) -> dict[str, Any]:
    """Return an engine's rule that answers with this text in one piece."""
    message = {"role": "assistant", "content": content}
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    return {"reply": {"body": body}}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_several_requests_on_a_connection(
    certificate: Pair, version: ssl.TLSVersion
) -> None:
    trusting = certificate.trusting()
    trusting.minimum_version = trusting.maximum_version = version
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    async with secure(certificate) as (served, _):

        def ask() -> None:
            with connected(served, trusting) as sock:
                assert sock.selected_alpn_protocol() == "http/1.1"
                found = http.client.HTTPConnection("localhost")
                found.sock = sock
                # Plain requests, one that needs the full protocol, and a plain one again, on one connection.
                for method, path in (("POST", CHAT), ("POST", CHAT), ("GET", "/v1/models"), ("POST", CHAT)):
                    body = json.dumps(chat()) if method == "POST" else None
                    found.request(method, path, body, {"content-type": "application/json"})
                    answer = found.getresponse()
                    assert (answer.status, bool(answer.read())) == (200, True)

        await asyncio.to_thread(ask)
        await until(lambda: not served.server.server_state.connections, "the connection is closed")


async def test_older_versions_are_refused_and_counted(certificate: Pair) -> None:
    trusting = certificate.trusting()
    trusting.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    async with secure(certificate) as (served, _):
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(connected(served, trusting).__enter__)
        assert served.metric("gateway_refused_total", reason="tls_handshake") == 1


async def test_openai_and_its_http_client(certificate: Pair) -> None:
    async with secure(certificate, defaults={"tokens": 50}) as (served, _):
        async with openai.AsyncOpenAI(
            base_url=f"https://localhost:{served.port}/v1",
            api_key="-",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=certificate.trusting()),
        ) as sdk:
            ask: dict[str, Any] = chat()
            answer = await sdk.chat.completions.create(**ask)
            assert answer.choices[0].message.content
            chunks = [chunk async for chunk in await sdk.chat.completions.create(stream=True, **ask)]
            assert chunks[-1].choices[0].finish_reason
            with pytest.raises(openai.NotFoundError):
                await sdk.chat.completions.create(model="other", messages=ask["messages"])
        async with httpx2.AsyncClient() as stranger:
            with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
                await stranger.get(f"https://localhost:{served.port}/healthz")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(certificate: Pair) -> None:
    async with secure(certificate) as (served, _):
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--cacert", str(certificate.ca), f"https://localhost:{served.port}{CHAT}",
            "-H", "content-type: application/json", "-d", json.dumps(chat(stream=True)),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await curl.communicate()
        assert curl.returncode == 0
        assert said.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("read", [1 << 16, 700])
async def test_a_large_answer_to_a_slow_reader_comes_whole_and_ends_properly(
    certificate: Pair, read: int
) -> None:
    async with secure(certificate, rules=[whole(LARGE)]) as (served, _):

        def ask() -> bytes:
            with connected(served, certificate.trusting(), receive_buffer=4096) as sock:
                sock.sendall(request(chat(), "Connection: close"))
                parts = [sock.recv(read)]
                held.set()
                assert going.wait(20)
                while part := sock.recv(read):
                    parts.append(part)
                return b"".join(parts)

        held, going = threading.Event(), threading.Event()
        asking = asyncio.create_task(asyncio.to_thread(ask))
        await asyncio.to_thread(held.wait, 20)
        connection: Any
        [connection] = served.server.server_state.connections
        await until(
            lambda: connection.transport.get_write_buffer_size() > 1 << 20, "the answer waits for the client"
        )
        # It is encrypted as the client takes it.
        assert connection.transport.transport.get_write_buffer_size() < 1 << 20
        going.set()
        answer = Answer.read(await asking)
        assert answer.whole
        assert answer.json()["choices"][0]["message"]["content"] == LARGE
        assert served.metric("gateway_requests_total", outcome="ok") == 1


async def test_who_takes_nothing_is_cut_off_and_sees_no_proper_end(certificate: Pair) -> None:
    async with secure(certificate, "timeouts: {write: 300ms}", rules=[whole(LARGE)]) as (served, _):

        def ask() -> None:
            with connected(served, certificate.trusting(), receive_buffer=4096) as sock:
                sock.sendall(request(chat()))
                gone.wait(20)
                with pytest.raises(OSError):  # the end of the stream without its mark, or a reset
                    rest_of(sock)

        gone = threading.Event()
        asking = asyncio.create_task(asyncio.to_thread(ask))
        await until(
            lambda: served.metric("gateway_requests_total", outcome="client_slow") == 1, "it is cut off"
        )
        gone.set()
        await asking


async def test_streams_pause_for_who_does_not_read(certificate: Pair) -> None:
    burst = {"say": "x" * 20_000, "tokens": 1000, "gap": 0}
    async with secure(certificate, defaults=burst) as (served, engine):
        going = threading.Event()

        def ask() -> bytes:
            with connected(served, certificate.trusting(), receive_buffer=4096) as sock:
                sock.sendall(request(chat(stream=True), "Connection: close"))
                assert going.wait(20)
                return rest_of(sock)

        asking = asyncio.create_task(asyncio.to_thread(ask))
        await until(lambda: bool(engine.requests), "the engine is asked")
        sent, same = -1, 0
        while same < 10:
            await asyncio.sleep(0.02)
            now = engine.requests[-1].bytes_sent
            sent, same = now, same + 1 if now == sent else 0
        assert sent < 16 << 20
        going.set()
        answer = Answer.read(await asking)
        assert answer.whole and answer.events[-1] == "[DONE]"
        assert len(answer.body) > 20_000_000


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_that_breaks_off_ends_without_the_end_mark(certificate: Pair, version: str) -> None:
    """In HTTP/1.0 nothing else tells where a stream ends."""
    broken = [{"match": {"contains": "break"}, "faults": [{"at": "event 3", "do": "reset"}]}]
    async with secure(certificate, rules=broken, defaults={"tokens": 8}) as (served, _):

        def ask(content: str) -> bytes:
            with connected(served, certificate.trusting()) as sock:
                sock.sendall(request(chat(content, stream=True), "Connection: close", version=version))
                return rest_of(sock)

        assert b"[DONE]" in await asyncio.to_thread(ask, "be whole")
        with pytest.raises(ssl.SSLEOFError):
            await asyncio.to_thread(ask, "break")


async def test_an_answer_that_comes_before_its_request_is_complete_is_seen(certificate: Pair) -> None:
    body = json.dumps(chat("A" * (24 << 20))).encode()
    async with secure(certificate, "limits: {body: 20KiB}") as (served, _):

        def ask() -> int:
            found = http.client.HTTPSConnection(
                "localhost", served.port, context=certificate.trusting(), timeout=20
            )
            with contextlib.closing(found):
                found.request("POST", CHAT, body, {"content-type": "application/json"})
                answer = found.getresponse()
                assert json.loads(answer.read())["error"]["code"] == "request_too_large"
                return answer.status

        assert await asyncio.to_thread(ask) == 413
        await until(lambda: not served.server.server_state.connections, "the connection is closed")


@pytest.mark.parametrize("how", ["end mark", "FIN", "RST"])
async def test_who_leaves_stops_the_engine(certificate: Pair, how: str) -> None:
    async with secure(certificate, defaults={"tokens": 10_000, "gap": "10ms"}) as (served, engine):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificate.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
        async with client(served.port) as raw:

            async def do(step: Callable[..., Any], *arguments: Any) -> Any:
                """Take one step of TLS, and exchange with the gateway what it needs for that."""
                while True:
                    wants = False
                    try:
                        return step(*arguments)
                    except ssl.SSLWantReadError:
                        wants = True
                    finally:
                        if outgoing.pending:
                            await raw.send(outgoing.read())
                        if wants:
                            incoming.write(await raw.read())

            await do(tls.do_handshake)
            await do(tls.write, request(chat(stream=True)))
            await do(tls.read, 100)
            assert engine.journal.totals.running == 1
            if how == "end mark":
                with contextlib.suppress(ssl.SSLError):  # it wanted no more of the answer, which still comes
                    await do(tls.unwrap)
            else:
                raw.leave(how)
            await until(lambda: engine.journal.totals.running == 0, "the engine stops")
            await until(lambda: at_rest(served), "everything is given back")
            assert served.metric("gateway_requests_total", outcome="client_gone") == 1
        await until(lambda: not served.server.server_state.connections, "the connection is closed")


async def test_http_without_tls_is_told_so_and_nothing_is_logged(
    certificate: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async with secure(certificate) as (served, _):
        answer = await served.get("/healthz")
        assert (answer.status, answer.error["code"]) == (400, "plain_http")
        assert "https://" in answer.error["message"]
        answer = Answer.read(await served.raw(request(chat("A" * (1 << 20)))))
        assert answer.status == 400
        assert served.metric("gateway_refused_total", reason="plain_http") == 2
        assert not caplog.records


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (b"", 0),
        (b"\x00\x01\x02", 1),
        (b"\x16\x03\x01\x00\x05hello", 1),
        (b"\x16\x03\x01\x02", 0),
        (b"SSH-2.0-x\r\n", 0),
    ],
)
async def test_strangers_come_and_go_unlogged(
    certificate: Pair, said: bytes, counted: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with secure(certificate) as (served, _):
        _, writer = await served.connect()
        writer.write(said)
        writer.write_eof()
        await until(lambda: not served.server.server_state.connections, "the connection is closed")
        writer.close()
        assert served.metric("gateway_refused_total", reason="tls_handshake") == counted
        assert not caplog.records
        assert await asyncio.to_thread(healthy, served, certificate)


def healthy(served: Served, certificate: Pair) -> bool:
    with connected(served, certificate.trusting()) as sock:
        sock.sendall(request(method="GET", path="/healthz"))
        return b"200 OK" in sock.recv(1000)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02"])
async def test_a_handshake_has_as_long_as_a_head(certificate: Pair, said: bytes) -> None:
    async with secure(certificate, "timeouts: {headers: 300ms}") as (served, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with client(served.port) as raw:
            await raw.send(said)
            await until(lambda: len(served.server.server_state.connections) == 1, "it counts as open")
            with contextlib.suppress(ConnectionResetError):
                assert await raw.read() == b""
        assert 0.25 < loop.time() - began < 5
        assert not served.server.server_state.connections
        assert served.metric("gateway_refused_total", reason="tls_handshake") == bool(said)


async def test_connections_in_the_handshake_count(certificate: Pair) -> None:
    async with secure(certificate, "limits: {connections: 2}") as (served, _):
        async with client(served.port), client(served.port):
            await until(lambda: len(served.server.server_state.connections) == 2, "they count as open")

            def ask() -> bytes:
                with connected(served, certificate.trusting()) as sock:
                    return rest_of(sock)

            answer = Answer.read(await asyncio.to_thread(ask))
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert served.metric("gateway_refused_total", reason="too_many_connections") == 1


async def test_a_stop_does_not_wait_for_a_handshake(certificate: Pair) -> None:
    async with secure(certificate) as (served, _), client(served.port) as raw:
        await raw.send(b"\x16\x03\x01\x02")
        await until(lambda: len(served.server.server_state.connections) == 1, "it counts as open")
        served.server.stop()
        await until(lambda: not served.server.server_state.connections, "it is closed", 2)


async def test_commands_trust_the_authority_they_are_told(
    certificate: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    async with secure(certificate) as (served, _):

        async def said(*words: str) -> tuple[int, str]:
            status = await asyncio.to_thread(main, ["status", *words])
            found = capsys.readouterr()
            return status, found.out + found.err

        url = f"https://localhost:{served.port}"
        status, words = await said("--url", url, "--ca", str(certificate.ca))
        assert (status, "ready" in words) == (0, True)
        status, words = await said("--url", url)
        assert (status, "is not trusted: " in words, "`--ca FILE`" in words) == (1, True, True)
        status, words = await said("--url", url, "--ca", str(certificate.folder / "none.pem"))
        assert (status, "No such file" in words) == (1, True)
        status, words = await said("--url", url, "--ca", str(certificate.key))
        assert (status, "it holds no certificates" in words) == (1, True)
        status, words = await said("--url", url.replace("https", "http"))
        assert (status, "https://" in words) == (1, True)


async def test_commands_want_the_name_in_the_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = pair(tmp_path, "gateway.example")
    async with secure(elsewhere) as (served, _):
        words = ["status", "--url", f"https://localhost:{served.port}", "--ca", str(elsewhere.ca)]
        assert await asyncio.to_thread(main, words) == 1
        assert "`--url` needs a name that is in it" in capsys.readouterr().err


async def test_a_client_may_send_a_request_in_many_records(certificate: Pair) -> None:
    async with secure(certificate) as (served, _):

        def ask() -> bytes:
            with connected(served, certificate.trusting()) as sock:
                data = request(chat("x" * 3000), "Connection: close")
                for start in range(0, len(data), 100):
                    sock.sendall(data[start : start + 100])
                return rest_of(sock)

        assert Answer.read(await asyncio.to_thread(ask)).status == 200

"""The front door over raw sockets: what is no proper request is refused in OpenAI's shape and the connection closed."""

import asyncio
from pathlib import Path

import pytest

from gateway.wire.checks import REASONS
from tests.serving import Answer, serving

CONFIG = """
server:
  listen: "127.0.0.1:0"
  limits: {body: 2000B, headers: 4KiB, header_count: 20}
  timeouts: {headers: 400ms, body: 400ms}
backends: {nowhere: {engine: openai, url: "http://127.0.0.1:9", models: [m]}}
"""
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"

REFUSED = {
    "no host": (POST + b"\r\n", 400, "invalid_host"),
    "two hosts": (POST + HOST + HOST + b"\r\n", 400, "invalid_host"),
    "length and chunked": (
        POST + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        400,
        "invalid_http",
    ),
    "two lengths": (POST + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "invalid_http"),
    "negative length": (POST + HOST + b"Content-Length: -1\r\n\r\n", 400, "invalid_http"),
    "signed length": (POST + HOST + b"Content-Length: +5\r\n\r\nhello", 400, "invalid_http"),
    "list of lengths": (POST + HOST + b"Content-Length: 5, 5\r\n\r\nhello", 400, "invalid_http"),
    "space before colon": (POST + b"Host : x\r\n\r\n", 400, "invalid_http"),
    "folded header": (POST + HOST + b"X-A: b\r\n c\r\n\r\n", 400, "invalid_http"),
    "NUL in a header": (POST + HOST + b"X-A: b\x00c\r\n\r\n", 400, "invalid_http"),
    "bad chunk size": (POST + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", 400, "invalid_http"),
    "unknown coding": (POST + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", 400, "invalid_http"),
    "random bytes": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400, "invalid_http"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_http"),
    "long URL": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "url_too_long"),
    "large headers": (POST + HOST + b"X-A: " + b"a" * 5000 + b"\r\n\r\n", 431, "headers_too_large"),
    "many headers": (POST + HOST + b"X-A: a\r\n" * 30 + b"\r\n", 431, "headers_too_large"),
    "large body by length": (POST + HOST + JSON + b"Content-Length: 2001\r\n\r\n", 413, "request_too_large"),
    "large body in chunks": (
        POST
        + HOST
        + JSON
        + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"
        + b"a" * 1000
        + b"\r\n"
        + b"3e9\r\n"
        + b"a" * 1001,
        413,
        "request_too_large",
    ),
    "strange expectation": (
        POST + HOST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}",
        417,
        "unsupported_expectation",
    ),
    "headers that never end": (POST + HOST + b"X-A: b\r\n", 408, "request_timeout"),
    "a body that never comes": (POST + HOST + JSON + b"Content-Length: 10\r\n\r\n{", 408, "request_timeout"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str, tmp_path: Path) -> None:
    data, status, code = REFUSED[name]
    async with serving(tmp_path, CONFIG) as served:
        answer = Answer.read(await served.raw(data))
        assert (answer.status, answer.error["code"]) == (status, code)
        assert answer.headers["connection"] == "close"
        assert (await served.get("/healthz")).status == 200
        # A request whose head was complete is counted as one.
        refused = served.metric("gateway_refused_total", reason=code)
        assert refused == served.metric("gateway_refused_total") == (name != "a body that never comes")
        assert refused or served.metric("gateway_requests_total", outcome="client_error") == 1
        assert code in REASONS


async def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        assert await served.raw(b"") == b""


async def test_dripping_headers_do_not_extend_the_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        for _ in range(5):
            reader, writer = await served.connect()
            started = asyncio.get_running_loop().time()
            reading = asyncio.create_task(reader.read())
            for byte in POST + HOST + b"X-Slow: " + b"a" * 1000:
                if reading.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
            assert asyncio.get_running_loop().time() - started < 5
            writer.close()
            try:
                data = await reading
            except ConnectionResetError:
                continue  # a byte that arrives after the gateway's close destroys an answer not read yet
            assert Answer.read(data).status == 408
            return
        pytest.fail("the connection was reset each time")


async def test_expect_continue_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        reader, writer = await served.connect()
        writer.write(POST + HOST + JSON + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_pipelined_requests_are_answered_in_order_each_on_its_own(tmp_path: Path) -> None:
    keys = CONFIG + 'keys: {a: {value: "${env.K}"}}\n'
    async with serving(tmp_path, keys, {"K": "sk-right"}) as served:
        one = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Authorization: Bearer sk-right\r\n\r\n"
        two = POST + HOST + JSON + b"Content-Length: 2\r\n\r\n{}"
        three = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        data = await served.raw(one + two + three)
        statuses = [answer.split()[0] for answer in data.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"401", b"200"]


async def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path) -> None:
    few = CONFIG.replace("header_count: 20", "header_count: 20, connections: 2").replace("400ms", "5s")
    async with serving(tmp_path, few) as served:
        held = [await served.connect() for _ in range(2)]
        answer = Answer.read(await served.raw(b""))
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        late = await served.connect()  # it counts as open until its client has closed it
        assert (await late[0].readuntil(b"\r\n")).split()[1] == b"503"
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await reader.readuntil(b"\r\n")).split()[1] == b"200", "what is open already is served"
        for _, writer in (*held, late):
            writer.close()
            await writer.wait_closed()

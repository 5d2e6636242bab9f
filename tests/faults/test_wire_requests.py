"""Requests that are wrong on the wire, or right in an unusual way: what the client is told, and what must not leak.

One gateway serves the whole table, so that each row also meets what the rows before left behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, at_rest, chat, client, config, http, until
from tests.serving import Answer, Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = """
  other: {targets: {engine-0: up}}
  org/model: {targets: {engine-0: up}}
keys: {a: {value: "${env.A}"}, b: {value: "${env.B}", models: [other]}}
"""
A, B = "sk-cuckoo-aaaaaaaaaaaaaaaaaaaa-one", "sk-cuckoo-aaaaaaaaaaaaaaaaaaaa-two"
BEARER = f"Authorization: Bearer {A}"
CLOSE = "Connection: close"


@dataclass
class Stage:
    served: Served
    engine: FakeEngine

    async def answer(self, data: bytes) -> Answer:
        """Send bytes, read to the end."""
        return Answer.read(await self.served.raw(data))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    environ = {"A": A, "B": B}
    limits = "limits: {body: 100KiB}, timeouts: {headers: 2s, body: 2s}"
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(
            tmp_path_factory.mktemp("gateway"), config(engine.url, server=limits, extra=KEYS), environ
        ) as served,
    ):
        yield Stage(served, engine)


HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{BEARER}\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TARGET = "a" * 70_000

REFUSED = {
    # C15
    "a header name of 10 KB": (HEAD + b"x" * 40_000 + b": y\r\n\r\n", 431, "headers_too_large"),
    "50 000 headers": (HEAD + b"X: y\r\n" * 50_000 + b"\r\n", 431, "headers_too_large"),
    "a header without end": (HEAD + b"X: " + b"y" * 1_000_000, 431, "headers_too_large"),
    # C16
    "a target of 70 KB": (f"GET /{TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 414, "url_too_long"),
    "a target that is no UTF-8": (
        b"GET /v1/\xc0\xaf HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "invalid_http",
    ),
    # C17
    "a host with a NUL": (b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400, "invalid_http"),
    **{
        f"the host {host!r}": (b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400, "invalid_host")
        for host in (
            b"",
            b"gate way",
            b":80",
            b"a:b",
            b"a/b",
            b"u@a",
            b"a,b",
            b"[::1",
            b"[]",
            b"[g::1]",
            b"\xe9.test",
        )
    },
    "no host, asked for a hot path": (
        HEAD.replace(b"localhost", b"local host") + b"Content-Length: 2\r\n\r\n{}",
        400,
        "invalid_host",
    ),
    "no host in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x y\r\n\r\n", 400, "invalid_host"),
    # C18
    "chunked, then identity": (
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
        "invalid_http",
    ),
    "chunks of gzip": (
        HEAD + b"Transfer-Encoding: gzip, Chunked\r\n\r\n0\r\n\r\n",
        400,
        "unsupported_coding",
    ),
    "a chunk's extension without end": (CHUNKED + b"2;" + b"e" * 1_000_000, 400, "invalid_http"),
    "extensions between tiny chunks": (
        CHUNKED + (b"1;" + b"e" * 100 + b"\r\n{\r\n") * 5000,
        400,
        "invalid_http",
    ),
    "a trailer without end": (CHUNKED + b"0\r\nX: " + b"y" * 1_000_000, 400, "invalid_http"),
    "chunked twice": (HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, "invalid_http"),
    "bare line feeds": (HEAD.replace(b"\r", b"") + b"Content-Length: 2\n\n{}", 400, "invalid_http"),
    "bare line feeds in chunks": (CHUNKED + b"2\n{}\n0\n\n", 400, "invalid_http"),
    "a chunk without its end": (CHUNKED + b"2\r\n{}0\r\n\r\n", 400, "invalid_http"),
    "a chunk size of 17 digits": (CHUNKED + b"1" * 17 + b"\r\n{}", 400, "invalid_http"),
    "a chunk of -1": (CHUNKED + b"-1\r\n{}", 400, "invalid_http"),
    "trailers of 1 MB": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 200_000 + b"\r\n", 431, "headers_too_large"),
    "a length behind the chunks": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", 400, "invalid_http"),
    "an empty header name": (HEAD + b": x\r\n\r\n", 400, "invalid_http"),
    "a carriage return in a value": (HEAD + b"X: a\rb\r\n\r\n", 400, "invalid_http"),
    # C21
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "invalid_http"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400, "invalid_http"),
    "HTTP/2.0 at a hot path": (
        HEAD.replace(b"/1.1", b"/2.0") + b"Content-Length: 2\r\n\r\n{}",
        400,
        "invalid_http",
    ),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 400, "invalid_http"),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400, "invalid_http"),
    # C35
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400, "invalid_http"),
    "a verb nobody knows": (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "invalid_http"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(name: str, stage: Stage) -> None:
    data, status, code = REFUSED[name]
    asked = len(stage.engine.requests)
    async with client(stage.served.port) as caller:
        await caller.send(data)
        await caller.until(b"\r\n\r\n")
        answer = Answer.read(await caller.rest())
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers["connection"] == "close"
    assert answer.whole
    assert len(stage.engine.requests) == asked
    await until(lambda: at_rest(stage.served), "everything is given back")


SPELLINGS = {
    "a dot segment": "/v1/./chat/completions",
    "a double dot segment": "/v1/x/../chat/completions",
    "an encoded dot segment": "/v1/%2e%2e/v1/chat/completions",
    "an encoded NUL": "/v1/chat/completions%00",
    "an encoded slash at the end": "/v1/chat/completions%2f",
    "no path": "*",
    "an encoded slash": "/v1/chat%2fcompletions",
    "encoded slashes": "/v1%2Fchat%2Fcompletions",
    "an encoded slash before the list": "/v1%2Fmodels",
    "a slash encoded twice": "/v1/chat%252Fcompletions",
    "another case": "/V1/chat/completions",
    "a semicolon": "/v1/chat/completions;x=1",
    "another version": "/v2/chat/completions",
    "another version before it": "/v2/v1/chat/completions",
    "the version behind it": "/chat/completions/v1",
    "a part of it": "/v1/completions/chat",
}


@pytest.mark.parametrize("name", SPELLINGS)
async def test_no_other_spelling_reaches_an_endpoint(name: str, stage: Stage) -> None:
    for key in (BEARER, "X-Nothing: x"):
        answer = await stage.answer(http(chat(), key, CLOSE, path=SPELLINGS[name]))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")


SAME = {
    "encoded letters": "/v1/%63hat/completions",
    "with a query": "/v1/chat/completions?api_key=x",
    "the absolute form": "http://gateway.localhost/v1/chat/completions",
    "the absolute form of another host": "http://elsewhere.test/v1/chat/completions",
    "twice the slash": "//v1//chat/completions",
    "a slash at the end": "/v1/chat/completions/",
    "slashes at the end": "/v1/chat/completions//",
    "no version": "/chat/completions",
    "twice the version": "/v1/v1/chat/completions",
    "thrice, with slashes": "///v1//v1/v1//chat/completions/",
    "no version, encoded": "/%63hat/completions",
}


@pytest.mark.parametrize("name", SAME)
async def test_every_spelling_that_reaches_an_endpoint_asks_for_the_key(name: str, stage: Stage) -> None:
    without = await stage.answer(http(chat(), CLOSE, path=SAME[name]))
    assert (without.status, without.error["code"]) == (401, "missing_api_key")
    assert (await stage.answer(http(chat(), BEARER, CLOSE, path=SAME[name]))).status == 200


@pytest.mark.parametrize("path", ["/v1/models/org/model", "/v1/models/org%2Fmodel", "/v1/models/org%2fmodel"])
async def test_a_slash_in_a_models_name_may_be_encoded(path: str, stage: Stage) -> None:
    answer = await stage.answer(http(None, BEARER, CLOSE, path=path, method="GET"))
    assert (answer.status, answer.json()["id"]) == (200, "org/model")


AUTHORIZATION = {
    "Basic": ("Basic c2stY2FuYXJ5", "invalid_api_key"),
    "no scheme": (A, "invalid_api_key"),
    "empty": ("", "missing_api_key"),
    "a scheme alone": ("Bearer", "missing_api_key"),
    "an empty token": ("Bearer ", "missing_api_key"),
    "not ASCII": ("Bearer sk-\xe9\xff", "invalid_api_key"),
    "very long": ("Bearer " + "x" * 30_000, "invalid_api_key"),
    "the first letters": (f"Bearer {A[:30]}", "invalid_api_key"),
    "one letter more": (f"Bearer {A}x", "invalid_api_key"),
    "two tokens": (f"Bearer {A}, Bearer {A}", "invalid_api_key"),
    "SQL": ("Bearer ' OR 1=1 --", "invalid_api_key"),
    "a format": ("Bearer %s{0}${env.A}", "invalid_api_key"),
    "JSON": ('Bearer {"$ne": null}', "invalid_api_key"),
}


@pytest.mark.parametrize("name", AUTHORIZATION)
async def test_no_key(name: str, stage: Stage) -> None:
    value, code = AUTHORIZATION[name]
    answer = await stage.answer(http(chat(), f"Authorization: {value}", CLOSE))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (401, code, None)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
    secret = value.removeprefix("Bearer").strip()
    assert not secret or secret.encode() not in answer.body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_written_in_any_case(scheme: str, stage: Stage) -> None:
    assert (await stage.answer(http(chat(), f"Authorization: {scheme} {A}  ", CLOSE))).status == 200


async def test_two_keys_in_one_request_are_refused(stage: Stage) -> None:
    answer = await stage.answer(http(chat(), BEARER, f"Authorization: Bearer {B}", CLOSE))
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")


async def test_keys_that_begin_alike_are_different(stage: Stage) -> None:
    answer = await stage.answer(http(chat(), f"Authorization: Bearer {B}", CLOSE))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_a_key_cannot_find_out_which_other_models_there_are(stage: Stage) -> None:
    answers = [
        await stage.answer(http(chat() | {"model": name}, f"Authorization: Bearer {B}", CLOSE))
        for name in ("m", "x")
    ]
    assert [(answer.status, answer.error["code"]) for answer in answers] == [(404, "model_not_found")] * 2
    there, nowhere = (answer.error["message"] for answer in answers)
    assert there.replace("'m'", "'x'") == nowhere
    assert "other" in there, "it says what the key may use"
    one = await stage.answer(
        http(None, f"Authorization: Bearer {B}", CLOSE, path="/v1/models/m", method="GET")
    )
    assert (one.status, one.error["message"]) == (404, there)


@pytest.mark.parametrize("name", ["Authorization", "X-Request-Id", "Traceparent", "Host"])
async def test_trailers_are_no_headers(name: str, stage: Stage) -> None:
    head = HEAD if name != "Authorization" else HEAD.replace(BEARER.encode() + b"\r\n", b"")
    body = chat_bytes()
    trailer = f"{name}: {BEARER.partition(': ')[2] if name == 'Authorization' else '1234'}\r\n".encode()
    data = head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)
    answer = await stage.answer(data)
    if name == "Authorization":
        assert (answer.status, answer.error["code"]) == (401, "missing_api_key")
        return
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "1234"
    asked = stage.engine.requests[-1]
    assert asked.headers.get("traceparent") is None
    assert asked.headers["x-request-id"] == answer.headers["x-request-id"]


def chat_bytes() -> bytes:
    return http(chat()).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_an_offer_to_upgrade_is_declined_and_the_request_served(protocol: str, stage: Stage) -> None:
    """Java's HTTP client offers h2c with every request, a body or not."""
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {protocol}",
        "HTTP2-Settings: AAMAAABkAAQAAP",
        BEARER,
    )
    whole = http(chat("offered"), *offer)
    chunked = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (chat_bytes()[:9], chat_bytes()[9:]))
    chunked += b"0\r\n\r\n"
    async with client(stage.served.port) as caller:
        for data in (whole, chunked, http(None, *offer, method="GET", path="/v1/models"), whole):
            for piece in (data[:30], data[30:-7], data[-7:]):
                await caller.send(piece)
            answer = await caller.answer()
            assert answer.status == 200, answer.body
        # All at once, many times over: no recursion, nothing lost.
        await caller.send(http(None, *offer, method="GET", path="/v1/models") * 1500)
        for _ in range(1500):
            assert (await caller.answer()).status == 200


async def test_a_hundred_pipelined_requests_are_each_judged_alone(stage: Stage) -> None:
    async with client(stage.served.port) as caller:
        requests = [http(chat(str(number)), *([BEARER] if number % 2 else [])) for number in range(100)]
        await caller.send(b"".join(requests))
        for number in range(100):
            answer = await caller.answer()
            assert answer.status == (200 if number % 2 else 401)
    await until(lambda: at_rest(stage.served), "everything is given back")


async def test_pipelined_streams_do_not_mix(stage: Stage) -> None:
    stage.engine.set(models=["up"], defaults={"text": "echo"})
    try:
        async with client(stage.served.port) as caller:
            words = [f"nonce{number}" for number in range(10)]
            await caller.send(b"".join(http(chat(word, stream=True), BEARER) for word in words))
            for word in words:
                answer = await caller.answer()
                said = "".join(
                    event["choices"][0]["delta"].get("content") or ""
                    for event in answer.events[:-1]
                    if event["choices"]
                )
                assert said.strip() == word
                assert answer.events[-1] == "[DONE]"
    finally:
        stage.engine.set(models=["up"])


async def test_garbage_behind_a_running_stream_is_refused_behind_its_end(stage: Stage) -> None:
    before = len(stage.engine.requests)
    async with client(stage.served.port) as caller:
        garbage = b"\x00\x01 garbage\r\n\r\n"
        await caller.send(http(chat(stream=True), BEARER) * 2 + garbage)
        for _ in range(2):
            answer = await caller.answer()
            assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")
        refused = Answer.read(await caller.rest())
    assert (refused.status, refused.error["code"]) == (400, "invalid_http")
    assert refused.headers["connection"] == "close"
    assert len(stage.engine.requests) == before + 2
    await until(lambda: at_rest(stage.served), "everything is given back")


async def test_more_than_the_length_says_is_refused_behind_the_answer(stage: Stage) -> None:
    """C14: what follows a body is the next request, and a bad one; the one before has its own answer."""
    async with client(stage.served.port) as caller:
        await caller.send(HEAD + b"Content-Length: 2\r\n\r\n{}{}")
        first = await caller.answer()
        assert (first.status, first.error["param"]) == (400, "model")
        second = Answer.read(await caller.rest())
    assert (second.status, second.error["code"]) == (400, "invalid_http")
    await until(lambda: at_rest(stage.served), "everything is given back")


async def test_a_refusal_after_an_early_answer_is_not_a_second_answer(stage: Stage) -> None:
    """The answer to the head came first (no key); then the body turns out to be wrong. Nothing more is said."""
    async with client(stage.served.port) as caller:
        await caller.send(CHUNKED.replace(BEARER.encode() + b"\r\n", b""))
        assert (await caller.answer()).status == 401
        await caller.send(b"zz\r\n")
        assert await caller.rest() == b""


async def test_the_rest_of_a_body_that_was_answered_early_is_skipped(stage: Stage) -> None:
    request = http(chat("x" * 50_000))
    async with client(stage.served.port) as caller:
        await caller.send(request[:500])
        assert (await caller.answer()).status == 401
        await caller.send(request[500:] + http(chat(), BEARER))
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "GET", "PUT", "DELETE", "PATCH", "PROPFIND"])
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/embeddings", "/v1/models", "/readyz", "/metrics", "/docs", "/v1/none"]
)
async def test_other_methods(method: str, path: str, stage: Stage) -> None:
    """Whatever the answer, it has the right form, and the connection goes on behind it. Nothing is echoed."""
    async with client(stage.served.port) as caller:
        await caller.send(
            http(None, BEARER, "X-Canary: cuckoo", "Origin: https://evil.test", path=path, method=method)
        )
        await caller.send(http(None, path="/healthz", method="GET"))
        if method == "HEAD":
            await caller.until(b"\r\n\r\n")
            head, _, caller.received = caller.received.partition(b"\r\n\r\n")
            answer = Answer.read(head + b"\r\n\r\n")
        else:
            answer = await caller.answer()
        behind = await caller.answer()
    assert behind.json() == {"status": "ok"}
    reads = path not in (CHAT, "/v1/embeddings", "/v1/none")
    allowed = method in ("GET", "HEAD") and reads
    expected = 200 if allowed else 404 if path == "/v1/none" else 405
    if expected == 405:
        assert answer.headers["allow"] == ("GET, HEAD" if reads else "POST")
    assert answer.status == expected
    assert b"cuckoo" not in answer.body
    assert answer.headers["x-request-id"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_http_1_0_gets_an_answer_that_ends_with_the_connection(stage: Stage) -> None:
    for stream in (True, False):
        data = await stage.served.raw(http(chat(stream=stream), BEARER, version="1.0"))
        answer = Answer.read(data)
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert "transfer-encoding" not in answer.headers
        assert answer.events[-1] == "[DONE]" if stream else answer.json()["choices"]
    without_host = http(chat(), BEARER, version="1.0").replace(b"Host: gateway.localhost\r\n", b"")
    assert Answer.read(await stage.served.raw(without_host)).status == 200


async def test_chunk_extensions_are_ignored(stage: Stage) -> None:
    body = chat_bytes()
    data = CHUNKED + b"%x;" % len(body) + b"e" * 1000 + b"\r\n" + body + b"\r\n0\r\n\r\n"
    async with client(stage.served.port) as caller:
        await caller.send(data)
        assert (await caller.answer()).status == 200


async def test_the_stage_is_as_clean_as_before(stage: Stage) -> None:
    """After all rows: nothing held, the model still answers, and no label came from what clients typed."""
    await until(lambda: at_rest(stage.served), "everything is given back")
    answer = await stage.answer(http(chat(), BEARER, CLOSE))
    assert answer.status == 200
    page = "".join(stage.served.gateway.metrics.pieces()).encode()
    assert b"cuckoo" not in page
    assert {line.split(b'model="')[1].split(b'"')[0] for line in page.splitlines() if b'model="' in line} <= {
        b"-",
        b"m",
        b"other",
        b"org/model",
    }

"""Answers to clients that are still sending: they see them, and cannot hold the connection for ever."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.wire import linger
from tests.faults.clients import CHAT, chat, client, config, http, until
from tests.serving import Answer, Served, serving

LIMITS = "limits: {body: 20KiB, connections: 3}, timeouts: {headers: 5s, body: 300ms}"
LARGE = json.dumps(chat("A" * (24 << 20))).encode()
"""More than the buffers of two sockets hold."""
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
KEYS = 'keys: {a: {value: "${env.A}"}}\n'


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(
        tmp_path, config("http://127.0.0.1:9", server=LIMITS, extra=KEYS), {"A": "sk-right"}
    ) as made:
        yield made


def none_open(served: Served) -> bool:
    return not served.server.server_state.connections


def post(port: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send a whole body before reading anything, as http.client does."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", CHAT, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


BEARER = {"authorization": "Bearer sk-right"}


async def test_http_client_sees_that_its_body_is_too_large(served: Served) -> None:
    status, body = await asyncio.to_thread(post, served.port, LARGE, BEARER)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    await until(lambda: none_open(served), "the connection is closed")


@pytest.mark.parametrize("headers", [{}, {"connection": "close"}])
async def test_urllib_and_others_see_an_answer_that_came_before_their_body(
    headers: dict[str, str], tmp_path: Path
) -> None:
    """A wrong key: the answer does not wait for the body, and a client that asked to close gets it all the same."""
    large = LIMITS.replace("20KiB", "32MiB").replace("300ms", "20s")
    async with serving(
        tmp_path, config("http://127.0.0.1:9", server=large, extra=KEYS), {"A": "sk-right"}
    ) as served:
        status, body = await asyncio.to_thread(post, served.port, LARGE, headers)
        assert (status, json.loads(body)["error"]["code"]) == (401, "missing_api_key")
        # FastAPI's own answers too.
        request = urllib.request.Request(f"{served.url}/v1/models", LARGE, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=20)
        with refused.value as answer:
            assert answer.code == 405
        await until(lambda: none_open(served), "the connection is closed")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_sees_that_its_body_is_too_large(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_bytes(LARGE)
    for expect in ("Expect:", "Expect: 100-continue"):
        curl = await asyncio.create_subprocess_exec(
            "curl", "-s", "-H", expect, "-H", "content-type: application/json", "--data-binary", f"@{file}",
            "-w", "%{http_code}", "-o", "/dev/null", served.url + CHAT,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await curl.communicate()
        assert (curl.returncode, said) == (0, b"413")


NODE = """
fetch(process.argv[1], {method: "POST", body: "A".repeat(24 << 20), headers: {"content-type": "application/json"}})
  .then(async answer => console.log(answer.status, (await answer.json()).error.code), error => console.log(error.cause))
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
async def test_node_sees_that_its_body_is_too_large(served: Served) -> None:
    node = await asyncio.create_subprocess_exec(
        "node", "-e", NODE, served.url + CHAT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await node.communicate()
    assert said == b"413 request_too_large\n"


REFUSED = {
    "a length too large": (HEAD + b"Content-Length: 30000\r\n\r\n", 413),
    "chunks too large": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n6000\r\n" + b"x" * 0x6000, 413),
    "headers too large": (HEAD + b"X: " + b"y" * 40_000, 431),
    "no HTTP": (b"\x00\x01\r\n\r\n", 400),
    "a body that comes too slowly": (
        HEAD + b"Authorization: Bearer sk-right\r\nContent-Length: 300\r\n\r\n{",
        408,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_survives_what_still_comes(name: str, served: Served) -> None:
    """The client reads only after it has sent much more: no reset has destroyed the answer."""
    data, status = REFUSED[name]
    async with client(served.port) as caller:
        await caller.send(data)
        if status == 408:
            await caller.until(b"\r\n\r\n")  # not before its time is over
        for _ in range(64):
            await caller.send(b"x" * (256 << 10))
        answers = (await caller.rest()).split(b"HTTP/1.1 ")
        assert Answer.read(b"HTTP/1.1 " + answers[-1]).status == status
        assert len(answers) == 2
    await until(lambda: none_open(served), "the connection is closed")


async def test_the_one_connection_too_many_reads_why(served: Served) -> None:
    callers = [await served.connect() for _ in range(3)]
    status, _ = await asyncio.to_thread(post, served.port, LARGE, BEARER)
    assert status == 503
    for _, writer in callers:
        writer.close()


async def test_who_neither_reads_nor_closes_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, "TICK", 0.05)
    async with client(served.port) as silent, client(served.port) as chatty:
        for caller in (silent, chatty):
            await caller.send(REFUSED["a length too large"][0])
        await until(lambda: len(served.server.server_state.connections) == 2, "both linger")

        async def chat_on() -> None:
            while True:
                await chatty.send(b"x")
                await asyncio.sleep(0.005)

        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await asyncio.wait_for(chat_on(), 20)
        await until(lambda: none_open(served), "both are closed")


async def test_who_sends_without_end_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, "BYTES", 1 << 20)
    async with client(served.port) as caller:
        await caller.send(REFUSED["a length too large"][0])
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await caller.send(b"x" * (256 << 20))
        await until(lambda: none_open(served), "it is closed")


async def test_a_lingering_connection_does_not_hold_up_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, "TICK", 1e6)
    slow = config("http://127.0.0.1:9", server=f"drain: 1h, {LIMITS}")
    async with serving(tmp_path, slow) as served:
        caller = await served.connect()
        caller[1].write(REFUSED["a length too large"][0])
        assert b" 413 " in await caller[0].readuntil(b"\r\n\r\n")
    caller[1].close()


EXPECTING = {
    "no key": (HEAD + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", 401),
    "another method": (
        b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
        405,
    ),
    "too large": (HEAD + b"Expect: 100-continue\r\nContent-Length: 30000\r\n\r\n", 413),
}


@pytest.mark.parametrize("name", EXPECTING)
async def test_an_early_answer_to_who_waits_for_leave_closes(name: str, served: Served) -> None:
    """What comes next could be the body or another request, so nothing is read from it."""
    data, status = EXPECTING[name]
    for behind in (b"", b'{"model":1}', http(None, path="/healthz", method="GET")):
        async with client(served.port) as caller:
            await caller.send(data)
            await caller.until(b"\r\n\r\n")
            await caller.send(behind)
            answer = Answer.read(await caller.rest())
        assert (answer.status, answer.headers["connection"], answer.whole) == (status, "close", True)


async def test_who_did_not_wait_for_leave_keeps_the_connection(served: Served) -> None:
    """The body came with the head: nothing is unclear."""
    body = b'{"model": "m", "messages": 1}'
    async with client(served.port) as caller:
        for _ in range(2):
            await caller.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await caller.answer()).status == 401

"""Compressed bodies of requests: every coding, what is broken, and bombs, by bytes and over the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import brotli
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api import reading
from gateway.errors import GatewayError
from gateway.fake.engine import FakeEngine
from gateway.wire.codings import STREAMS, coding_of, decoded
from tests.faults.clients import CHAT, chat, client, config, http, rest, until
from tests.serving import Answer, Served, serving

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20


def bare(data: bytes) -> bytes:
    """Deflate without zlib's head, as some clients send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def quick(data: bytes) -> bytes:
    packed: bytes = brotli.compress(data, quality=4)
    return packed


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-Gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare),
    "br": ("br", quick),
    "zstd": ("zstd", zstd.compress),
    "zstd, slowly": ("zstd", lambda data: zstd.compress(data, level=19)),
}


def lines(size: int) -> bytes:
    """Return text that is neither random nor all the same."""
    words = random.Random(7).choices(
        [b"token ", b"stream ", b"\n", b"0.1, ", "größer ".encode()], k=size // 4 + 1
    )
    return b"".join(words)[:size]


@pytest.mark.parametrize("size", [1, 1000, MIB])
@pytest.mark.parametrize("name", CODINGS)
def test_what_was_packed_comes_out(name: str, size: int) -> None:
    coding, pack = CODINGS[name]
    data = lines(size)
    known = coding_of({b"content-encoding": f" {coding} ".encode()})
    assert decoded(known, pack(data), size) == data
    with pytest.raises(GatewayError) as refused:
        decoded(known, pack(data + b"x"), size)
    assert (refused.value.status, refused.value.code) == (413, "request_too_large")


@pytest.mark.parametrize("value", [b"identity", b"IDENTITY", b""])
def test_no_coding(value: bytes) -> None:
    assert coding_of({b"content-encoding": value}) == coding_of({}) == b""
    assert decoded(b"", b"as it is", 3) == b"as it is"


@pytest.mark.parametrize(
    "value", ["compress", "gzip, br", "gzip,gzip", "lzma", "aws-chunked", "*", "gz ip", "zstd;q=1"]
)
def test_an_unknown_coding(value: str) -> None:
    with pytest.raises(GatewayError) as refused:
        coding_of({b"content-encoding": value.encode()})
    assert refused.value.status == 415
    assert (b"accept-encoding", b"gzip, zstd, deflate, br") in refused.value.headers()


def broken(pack: Callable[[bytes], bytes]) -> dict[str, bytes]:
    data = pack(lines(20_000))
    middle = bytearray(data)
    middle[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    return {
        "nothing": b"",
        "plain text": b'{"model": "m"}',
        "cut": data[:-1],
        "cut early": data[: len(data) // 2],
        "its head alone": data[:3],
        "more behind it": data + b'{"a": 1}',
        "spoilt": bytes(middle),
    }


FAULTS = [
    (name, fault)
    for name in CODINGS
    for fault in broken(gzip.compress)
    # Nothing in a bare stream could tell that it is spoilt.
    if (name, fault) != ("bare deflate", "spoilt")
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_what_is_broken_is_told(name: str, fault: str) -> None:
    coding, pack = CODINGS[name]
    with pytest.raises(GatewayError) as refused:
        decoded(coding.lower().encode(), broken(pack)[fault], MIB)
    assert (refused.value.status, refused.value.code) == (400, "invalid_coding")


def test_several_members_and_frames_are_one_body() -> None:
    assert decoded(b"gzip", gzip.compress(b"a") + gzip.compress(b"b"), 2) == b"ab"
    assert decoded(b"zstd", zstd.compress(b"a") + zstd.compress(b"b"), 2) == b"ab"
    with pytest.raises(GatewayError) as refused:
        decoded(b"gzip", gzip.compress(b"a" * 100) * 100, 5000)
    assert refused.value.status == 413


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_and_frames_end_anywhere(name: str) -> None:
    coding, pack = CODINGS[name]
    parts = [random.Random(size).randbytes(size) for size in (1, 70_000, 65_500, 200_000, 0, 3)]
    body = b"".join(pack(part) for part in parts)
    assert decoded(coding.encode(), body, MIB) == b"".join(parts)
    for end in (len(body) - 1, 65_536, 70_030):
        with pytest.raises(GatewayError) as refused:
            decoded(coding.encode(), body[:end], MIB)
        assert refused.value.code == "invalid_coding"


SKIPPED = bytes.fromhex("502a4d1800000000")
"""A frame of Zstandard that holds nothing and is skipped (RFC 8878, section 3.1.2)."""


@pytest.mark.parametrize(
    ("coding", "stream"),
    [("gzip", gzip.compress(b"", mtime=0)), ("zstd", zstd.compress(b"")), ("zstd", SKIPPED)],
    ids=["gzip", "zstd", "zstd, skipped"],
)
def test_members_and_frames_are_counted(coding: str, stream: bytes) -> None:
    """Some hundred thousand empty ones, in a body of the usual size, kept a decoder busy for many minutes."""
    assert decoded(coding.encode(), stream * STREAMS, MIB) == b""
    with pytest.raises(GatewayError) as refused:
        decoded(coding.encode(), stream * (STREAMS + 1), MIB)
    assert (refused.value.status, refused.value.code) == (400, "invalid_coding")
    assert str(STREAMS) in refused.value.message


def test_a_large_window_is_not_allocated() -> None:
    """A frame may ask for a window of 2 GiB. This one asks for 128 MiB, of which it needs nothing."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    frame = packer.compress(b"x" * 100) + packer.flush()
    with pytest.raises(GatewayError) as refused:
        decoded(b"zstd", frame, 10 * MIB)
    assert refused.value.code == "invalid_coding"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"gzip", b"deflate", b"br", b"zstd"]), st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(coding: bytes, data: bytes) -> None:
    status, plain = 200, b""
    try:
        plain = decoded(coding, data, 5000)
    except GatewayError as error:
        status = error.status
    assert status in (200, 400, 413) and len(plain) <= 5000


# Over the wire


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[FakeEngine, Served]]:
    limits = "limits: {body: 1MiB}"
    async with (
        FakeEngine(models=["up"], defaults={"text": "echo"}) as engine,
        serving(tmp_path, config(engine.url, server=limits)) as made,
    ):
        yield engine, made


@pytest.mark.parametrize("odd", [(), ("X-Odd: 1", "X-Odd: 2")], ids=["front door", "full protocol"])
@pytest.mark.parametrize("name", CODINGS)
async def test_a_compressed_request_is_served(
    name: str, odd: tuple[str, ...], served: tuple[FakeEngine, Served]
) -> None:
    engine, gateway = served
    coding, pack = CODINGS[name]
    async with client(gateway.port) as caller:
        for number, stream in enumerate((False, True, False)):
            body = chat(f"nonce{number} " + "x" * 5000 * number, stream=stream)
            await caller.send(http(pack(json.dumps(body).encode()), f"Content-Encoding: {coding}", *odd))
            answer = await caller.answer()
            assert answer.status == 200, answer.body
            assert f"nonce{number}".encode() in answer.body
            sent = engine.requests[-1]
            assert sent.json()["messages"] == body["messages"]
            assert "content-encoding" not in sent.headers
        # A plain one behind it is not taken for compressed.
        await caller.send(http(chat("plain"), *odd))
        assert (await caller.answer()).status == 200


BOMB = json.dumps(chat("A" * 50 * MIB)).encode()
WRONG = {
    "a bomb of gzip": ("gzip", gzip.compress(BOMB), 413, "request_too_large"),
    "a bomb of br": ("br", quick(BOMB), 413, "request_too_large"),
    "a bomb of zstd": ("zstd", zstd.compress(BOMB), 413, "request_too_large"),
    "no gzip": ("gzip", b'{"model": "m"}', 400, "invalid_coding"),
    "cut": ("gzip", gzip.compress(b"{}")[:-3], 400, "invalid_coding"),
    "no JSON in it": ("gzip", gzip.compress(b"{"), 400, "invalid_json"),
    "nothing in it": ("gzip", gzip.compress(b""), 400, "invalid_json"),
    "another coding": ("compress", b"{}", 415, "unsupported_media_type"),
    "two codings": ("gzip, br", b"{}", 415, "unsupported_media_type"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_one_is_refused_and_the_connection_goes_on(
    name: str, served: tuple[FakeEngine, Served]
) -> None:
    coding, body, status, code = WRONG[name]
    engine, gateway = served
    before = len(engine.requests)
    async with client(gateway.port) as caller:
        await caller.send(
            http(body, f"Content-Encoding: {coding}") + http(None, path="/healthz", method="GET")
        )
        answer = await caller.answer()
        assert (answer.status, answer.error["code"]) == (status, code)
        assert (await caller.answer()).status == 200
    assert len(engine.requests) == before
    await rest(gateway)


async def test_decoding_happens_off_the_loop_and_ends_with_its_client(
    served: tuple[FakeEngine, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, gateway = served
    go_on, threads = threading.Event(), []

    def slow(coding: bytes, body: bytes, limit: int) -> bytes:
        threads.append(threading.current_thread())
        assert go_on.wait(20)
        return decoded(coding, body, limit)

    monkeypatch.setattr(reading, "decoded", slow)
    before = len(engine.requests)
    request = http(gzip.compress(json.dumps(chat()).encode()), "Content-Encoding: gzip")
    try:
        async with client(gateway.port) as caller, client(gateway.port) as staying:
            for each in (caller, staying):
                await each.send(request)
            await until(lambda: len(threads) == 2, "both are being decoded")
            assert threading.current_thread() not in threads
            assert (await gateway.post(CHAT, chat())).status == 200, "others are served meanwhile"
            caller.leave("RST")
            await until(lambda: len(gateway.gateway.core.register.running) == 1, "who left is not served")
            go_on.set()
            assert (await staying.answer()).status == 200
    finally:
        go_on.set()
    assert len(engine.requests) == before + 2
    assert gateway.metric("gateway_requests_total", outcome="client_gone") == 1
    await rest(gateway)


@pytest.mark.parametrize("kind", [reading.Decoding, reading.Reading])
async def test_a_request_that_ends_before_the_first_step_is_over(kind: Any) -> None:
    """A task that is cancelled before it has begun never runs."""
    told: list[object] = []
    exchange: Any = SimpleNamespace(work=None, coding=b"gzip", end=told.append)
    beyond = (told.append,) * (2 if kind is reading.Reading else 1)
    kind(exchange, MIB, *beyond).begin(gzip.compress(b"{}"))
    error = RuntimeError("the client has left")
    exchange.work.interrupt(error)
    await asyncio.sleep(0.05)
    assert told == [error]


async def test_a_form_may_be_compressed(tmp_path: Path) -> None:
    """What coding agents and recorders send: the coding is about the body, whatever is in it."""
    form = (
        b'--x1\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
        b'--x1\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x1--\r\n'
    )
    heard = {"match": {"path": "/v1/audio/transcriptions"}, "reply": {"status": 200, "body": {"text": "hi"}}}
    async with (
        FakeEngine(models=["up"], rules=[heard]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        answer: Answer = await served.post(
            "/v1/audio/transcriptions",
            gzip.compress(form),
            content_type="multipart/form-data; boundary=x1",
            content_encoding="gzip",
        )
        assert (answer.status, answer.json()["text"]) == (200, "hi")
        assert b"RIFF" in engine.requests[-1].body
        await asyncio.sleep(0)

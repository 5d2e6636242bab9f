"""Heads of plain requests: what is read here and what is left to the full protocol, and when a head comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake.engine import FakeEngine
from gateway.request import Exchange, WayBack
from gateway.wire.door import Door
from gateway.wire.heads import Head, read_head
from gateway.wire.limits import Limits
from gateway.wire.server import GatewayProtocol
from tests.faults.clients import CHAT, chat, client, config, http, until
from tests.serving import Served, serving

PATH = b"/v1/chat/completions"
PLAIN = (
    b"POST "
    + PATH
    + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 17\r\nX-Mine: y\r\n\r\n"
)


class Nobody:
    """A handler that is never asked."""

    def open(self, way: WayBack, headers: Mapping[bytes, bytes], began: int) -> Exchange:
        raise NotImplementedError

    def admit(self, exchange: Exchange, known: object = None) -> object:
        raise NotImplementedError

    def accept(self, exchange: Exchange, body: bytes) -> None:
        raise NotImplementedError


def read(data: bytes, limits: Limits | None = None) -> Head | None:
    return read_head(data, data.find(b"\r\n\r\n") + 4, {PATH: Nobody()}, limits or Limits())


def test_a_plain_head() -> None:
    head = read(PLAIN + b"body")
    assert head is not None
    assert (head.length, head.keep_alive) == (17, True)
    assert head.headers == {
        b"host": b"localhost",
        b"content-type": b"application/json",
        b"content-length": b"17",
        b"x-mine": b"y",
    }
    assert head.before + b"17" + head.after == PLAIN


ODD = {
    "another method": PLAIN.replace(b"POST", b"GET"),
    "another path": PLAIN.replace(b"chat", b"chats"),
    "a query": PLAIN.replace(b" HTTP", b"?a=1 HTTP"),
    "an escape": PLAIN.replace(b"chat", b"%63hat"),
    "HTTP/1.0": PLAIN.replace(b"1.1", b"1.0"),
    "HTTP/2.0": PLAIN.replace(b"1.1", b"2.0"),
    "no host": PLAIN.replace(b"Host: localhost\r\n", b""),
    "two hosts": PLAIN.replace(b"Host: localhost\r\n", b"Host: localhost\r\nHost: localhost\r\n"),
    "no length": PLAIN.replace(b"Content-Length: 17\r\n", b""),
    "two lengths": PLAIN.replace(b"Content-Length: 17\r\n", b"Content-Length: 17\r\n" * 2),
    "a length of nothing": PLAIN.replace(b"17", b"0"),
    "a signed length": PLAIN.replace(b"17", b"+17"),
    "a list of lengths": PLAIN.replace(b"17", b"17, 17"),
    "a length that is too large": PLAIN.replace(b"17", b"%d" % (Limits().body + 1)),
    "chunks": PLAIN.replace(b"X-Mine: y", b"Transfer-Encoding: chunked"),
    "an expectation": PLAIN.replace(b"X-Mine: y", b"Expect: 100-continue"),
    "an upgrade": PLAIN.replace(b"X-Mine: y", b"Connection: upgrade\r\nUpgrade: h2c"),
    "a header twice": PLAIN.replace(b"X-Mine: y", b"X-Mine: y\r\nx-mine: z"),
    "two keys": PLAIN.replace(b"X-Mine: y", b"Authorization: a\r\nAuthorization: b"),
    "a folded header": PLAIN.replace(b"X-Mine: y", b"X-Mine: y\r\n z"),
    "a space before a colon": PLAIN.replace(b"X-Mine:", b"X-Mine :"),
    "a NUL": PLAIN.replace(b"X-Mine: y", b"X-Mine: \x00"),
    "a name with a slash": PLAIN.replace(b"X-Mine", b"X/Mine"),
    "too many headers": PLAIN.replace(b"X-Mine: y", b"\r\n".join(b"X-%d: y" % n for n in range(200))),
    "too much of them": PLAIN.replace(b"X-Mine: y", b"X-Mine: " + b"y" * (33 << 10)),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_left_to_the_full_protocol(name: str) -> None:
    assert ODD[name] != PLAIN
    assert read(ODD[name]) is None


@given(st.integers(1, Limits().body), st.binary(max_size=20))
def test_a_head_comes_again_with_another_length(length: int, body: bytes) -> None:
    head = read(PLAIN)
    assert head is not None
    again = PLAIN.replace(b"17", b"%d" % length)
    assert head.repeated(again + body, Limits().body) == len(again)
    assert head.length == length


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_one_other_byte_and_it_is_another_head(place: int, byte: int) -> None:
    """Each byte of a known head is changed to every other: that is another head but for digits of the length."""
    head = read(PLAIN)
    assert head is not None
    changed = PLAIN[:place] + bytes([byte]) + PLAIN[place + 1 :]
    digits = range(len(head.before), len(head.before) + 2)
    same = changed == PLAIN or (
        place in digits and chr(byte) in "0123456789" and changed[digits[0] : digits[-1] + 1] != b"00"
    )
    assert bool(head.repeated(changed, Limits().body)) is same


@pytest.mark.parametrize(
    "length", [b"", b"0", b"00", b"-1", b"+1", b"1 7", b"1_7", b"0x1", b"\xb2", b"99999999999"]
)
def test_no_length_but_a_plain_number_is_recognised(length: bytes) -> None:
    head = read(PLAIN)
    assert head is not None
    assert head.repeated(PLAIN.replace(b"17", length), Limits().body) == 0


KEYS = 'keys: {a: {value: "${env.A}", models: [m]}, b: {value: "${env.B}"}}\n'


async def test_a_known_head_admits_nobody_else(tmp_path: Path) -> None:
    """What was found out about a head holds for that head alone: another key is looked up anew."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=KEYS), {"A": "sk-aa", "B": "sk-bb"}) as served,
        client(served.port) as caller,
    ):
        for key, status in [("sk-aa", 200)] * 3 + [("sk-bb", 200), ("sk-cc", 401), ("sk-aa", 200), ("", 401)]:
            await caller.send(http(chat(), f"Authorization: Bearer {key}" if key else "X-None: 1"))
            assert (await caller.answer()).status == status


async def test_a_known_head_is_judged_anew_by_a_new_snapshot(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=KEYS), {"A": "sk-aa", "B": "sk-bb"}) as served,
        client(served.port) as caller,
    ):
        request = http(chat(), "Authorization: Bearer sk-aa")
        await caller.send(request)
        assert (await caller.answer()).status == 200
        other = served.gateway.core.snapshot.config.model_copy(update={"keys": {}})
        kept = {name: key for name, key in served.gateway.core.snapshot.config.keys.items() if name != "a"}
        served.gateway.apply(other.model_copy(update={"keys": kept}))
        await caller.send(request)
        assert (await caller.answer()).status == 401


def kinds(served: Served) -> list[type]:
    return [type(connection) for connection in served.server.server_state.connections]


async def test_a_connection_comes_back_from_the_full_protocol(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        for request in (
            http(method="GET", path="/v1/models"),
            http(chat(), "X-A: 1", "X-A: 2"),
            http(chat()),
        ) * 3:
            await caller.send(request)
            assert (await caller.answer()).status == 200
            await until(lambda: kinds(served) == [Door], "the front door has the connection")
        streaming = http(chat(stream=True), "X-A: 1", "X-A: 2")
        engine.set(models=["up"], defaults={"endless": True, "gap": 0.005})
        await caller.send(streaming)
        await caller.until(b"data: ")
        [kind] = kinds(served)
        assert issubclass(kind, GatewayProtocol)


async def test_many_short_requests_at_once_do_not_nest(tmp_path: Path) -> None:
    """Requests that are refused at once, each behind the other in one read: none uses the stack of the one before."""
    many = 400
    async with serving(tmp_path, config("http://127.0.0.1:9")) as served, client(served.port) as caller:
        await caller.send(http(b"{}") * many)
        for _ in range(many):
            assert (await caller.answer()).status == 400
        assert served.metric("gateway_requests_total", outcome="client_error") == many


async def test_a_body_in_pieces(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
        client(served.port) as caller,
    ):
        request = http(chat("x" * 300))
        head = request.index(b"\r\n\r\n") + 4
        for cut in (head, head + 1, len(request) - 1):
            await caller.send(request[:cut])
            await until(lambda: len(served.gateway.core.register.running) == 1, "the head has been read")
            await caller.send(request[cut:] + request)
            for _ in range(2):
                assert (await caller.answer()).status == 200
        assert kinds(served) == [Door]
        assert len([asked for asked in engine.requests if asked.path == CHAT]) == 6
        await asyncio.sleep(0)

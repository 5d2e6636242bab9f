"""The client's address behind proxies: told by those that are trusted, and by nobody else."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from gateway.config.problems import ConfigError
from gateway.fake.engine import FakeEngine
from gateway.proxies import HOPS, Proxies
from tests.config.files import config as loaded
from tests.config.files import lines
from tests.faults.clients import chat, client, config, http, until
from tests.serving import serving

TRUSTED = Proxies(map(ipaddress.ip_network, ("127.0.0.0/8", "10.0.0.0/8", "fd00::/8", "192.0.2.7/32")))


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("203.0.113.9", b"1.2.3.4", "203.0.113.9"),  # who is not trusted is not believed
        ("127.0.0.1", b"", "127.0.0.1"),
        ("127.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", b"1.2.3.4, 203.0.113.9, 10.1.2.3", "203.0.113.9"),  # the client wrote 1.2.3.4 itself
        ("127.0.0.1", b"10.9.9.9,10.1.2.3", "10.9.9.9"),  # all trusted: the farthest
        ("192.0.2.7", b"203.0.113.9", "203.0.113.9"),
        ("192.0.2.8", b"203.0.113.9", "192.0.2.8"),
        ("::ffff:127.0.0.1", b"203.0.113.9:4711", "203.0.113.9"),
        ("127.0.0.1", b'"[2001:db8::17]:4711", fd00::1', "2001:db8::17"),
        ("127.0.0.1", b"2001:db8::17", "2001:db8::17"),
        ("127.0.0.1", b"fe80::1%eth0", "fe80::1"),
        ("127.0.0.1", b"::ffff:203.0.113.9", "203.0.113.9"),
        ("::1", b"203.0.113.9", "::1"),
        ("127.0.0.1", b"203.0.113.9, unknown, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", b"203.0.113.9, ", "127.0.0.1"),
        ("127.0.0.1", b"\xff\x00;DROP", "127.0.0.1"),
        ("127.0.0.1", b"1" * 5000, "127.0.0.1"),
        ("127.0.0.1", b"203.0.113.9" + b",10.0.0.1" * 1000, "10.0.0.1"),
        ("127.0.0.1", b"203.0.113.9" + b",10.0.0.1" * (HOPS - 1), "203.0.113.9"),
        ("127.0.0.1", b"203.0.113.9" + b",10.0.0.1" * HOPS, "10.0.0.1"),
        ("", b"203.0.113.9", ""),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(peer: str, header: bytes, client: str) -> None:
    assert TRUSTED.client(peer, {b"x-forwarded-for": header, b"forwarded": b"for=9.9.9.9"}) == client
    assert Proxies(()).client(peer, {b"x-forwarded-for": header}) == peer


async def test_the_access_log_has_the_client_of_every_kind_of_request(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    server = f'auth: none, trusted_proxies: [127.0.0.1], log: {{access: "{log}"}}'
    ways = {
        "plain": http(chat(), "X-Forwarded-For: 9.9.9.9, 203.0.113.9"),
        "by the full protocol": http(chat(), "X-Forwarded-For: 203.0.113.9", "Expect: 100-continue"),
        "in two lines": http(chat(), "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 127.0.0.1"),
        "told otherwise only": http(chat(), "Forwarded: for=203.0.113.9"),
    }
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, server=server)) as served,
    ):
        for data in ways.values():
            async with client(served.port) as made:
                await made.send(data)
                await made.until(b'"finish_reason"')
        async with client(served.port) as made:
            await made.send(http(chat("x", stream=True), "X-Forwarded-For: 203.0.113.9"))
            await made.until(b"data: ")
            made.leave("RST")
        await until(lambda: log.exists() and log.read_text().count("\n") == len(ways) + 1, "it is logged")
        told = [json.loads(line)["client"] for line in log.read_text().splitlines()]
        assert told == ["203.0.113.9", "203.0.113.9", "203.0.113.9", "127.0.0.1", "203.0.113.9"]


async def test_any_host_is_right_behind_a_proxy(tmp_path: Path) -> None:
    """The gateway is not only this machine's any more, so the names by which it is called are not either."""
    keys = 'keys: {a: {value: "${env.A}"}}\n'
    made = config("http://127.0.0.1:9", server="trusted_proxies: [127.0.0.1]", extra=keys)
    async with serving(tmp_path, made, {"A": "sk-right"}) as served:
        data = http(
            None, "Authorization: Bearer sk-right", "Connection: close", path="/v1/models", method="GET"
        )
        answer = await served.raw(data.replace(b"gateway.localhost", b"gateway.example.com"))
        assert answer.startswith(b"HTTP/1.1 200")
        bad = await served.raw(data.replace(b"gateway.localhost", b"a/b"))
        assert b"invalid_host" in bad


BACKENDS = "\nbackends: {a: {engine: openai, url: 'http://h:1'}}\n"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("10.0.0.0/8", []),
        ("fd00::/8", []),
        ("192.0.2.7", []),
        ("10.0.0.1/8", ["a network such as 10.0.0.0/8"]),
        ("proxy.internal", ["a network such as 10.0.0.0/8"]),
        ("10.0.0.0/33", ["a network such as 10.0.0.0/8"]),
    ],
)
def test_what_may_be_trusted(written: str, told: list[str], tmp_path: Path) -> None:
    found = lines(tmp_path, f"server: {{auth: none, trusted_proxies: ['{written}']}}{BACKENDS}")
    assert [line.partition("expected ")[2].partition(", got")[0] for line in found] == told


def test_a_proxy_lets_others_in_so_there_must_be_keys(tmp_path: Path) -> None:
    text = f"server: {{trusted_proxies: [127.0.0.1]}}{BACKENDS}"
    [line] = lines(tmp_path, text)
    assert line.startswith("1:27: behind a proxy others than this machine's can ask, and there are no keys")
    assert loaded(tmp_path, text.replace("{trusted", "{auth: none, trusted")).guarded
    with pytest.raises(ConfigError):
        loaded(tmp_path, text.replace("{trusted", "{auth: keys, trusted"))

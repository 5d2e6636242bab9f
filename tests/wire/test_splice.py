"""A read that is exactly one chunk goes past the parser: only where a chunk can begin, however the bytes were cut."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest

from backends.base import Failure, Headers
from gateway.wire.connection import Connection, Sink

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Socket:
    """A transport that nothing is at the other end of."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Do nothing."""

    def get_extra_info(self, name: str) -> None:
        """Know nothing: there is no socket."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Recorder(Sink):
    """What an exchange brought."""

    def __init__(self) -> None:
        self.body = b""
        self.spliced = 0
        self.end: object = None

    def on_sent(self) -> None:
        """Do nothing."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Do nothing."""

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_chunk(self, framed: bytes, start: int, end: int) -> None:
        self.spliced += 1
        self.body += framed[start:end]

    def on_end(self) -> None:
        self.end = "complete"

    def on_lost(self, failure: Failure) -> None:
        self.end = failure


async def read(*reads: bytes) -> Recorder:
    """Return what an answer in these reads brings."""
    connection = Connection(asyncio.get_running_loop(), lambda _: None)
    connection.connection_made(cast(Any, Socket()))
    sink = Recorder()
    connection.send(b"", sink)
    for data in reads:
        connection.data_received(data)
    return sink


async def test_whole_chunks_go_past_the_parser() -> None:
    sink = await read(
        HEAD, b"1\r\na\r\n", b"2\r\nbc\r\n", b"0002\r\nde\r\n", b"A\r\n0123456789\r\n", b"0\r\n\r\n"
    )
    assert (sink.body, sink.spliced, sink.end) == (b"abcde0123456789", 3, "complete")


@pytest.mark.parametrize("before", [b"1\r\na\r\n1", b"1", b"1\r\na\r\n15;x=1"])
async def test_the_rest_of_a_size_is_no_size(before: bytes) -> None:
    """A chunk of 0x15 bytes; its size is cut, and what the second read holds looks like a whole chunk of 5."""
    payload = b"hello\r\n23456789ABCDEF"
    assert len(payload) == 0x15
    size = b"5\r\n"
    sink = await read(HEAD, b"1\r\na\r\n", before, size + payload[:7], payload[7:] + b"\r\n", b"0\r\n\r\n")
    assert sink.body == b"a" * (1 + before.count(b"a")) + payload
    assert (sink.spliced, sink.end) == (0, "complete")


async def test_any_cut_gives_the_same() -> None:
    random = Random(11)
    for _ in range(3000):
        payloads = [
            b"".join(random.choices([b"\r\n", b"1", b"5", b"a", b"0", b";"], k=random.randrange(1, 40)))
            for _ in range(6)
        ]
        wire = b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"
        cuts = sorted({0, len(wire), *random.sample(range(len(wire)), random.randrange(min(30, len(wire))))})
        reads = [wire[start:end] for start, end in pairwise(cuts)]
        sink = await read(HEAD, *reads)
        assert (sink.body, sink.end) == (b"".join(payloads), "complete"), reads

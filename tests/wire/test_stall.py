"""The clock of a client that does not read fast enough, with a loop and a transport that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from gateway.wire.stall import LOOKS, Stall, unread

SECONDS = 8.0


class Loop:
    """A loop that has one timer."""

    def __init__(self) -> None:
        self.due: Callable[[], None] | None = None

    def call_later(self, seconds: float, call: Callable[[], None]) -> Loop:
        assert seconds == SECONDS / LOOKS
        self.due = call
        return self

    def cancel(self) -> None:
        self.due = None

    def look(self) -> None:
        """Let the time pass until the next look."""
        due, self.due = self.due, None
        assert due is not None
        due()


class Transport:
    """A transport that holds some bytes back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def get_extra_info(self, name: str) -> None:
        """Know nothing: there is no socket."""

    def abort(self) -> None:
        self.aborted = True


class Request:
    """A request that notes how it was counted."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    def count(self, outcome: str = "") -> None:
        self.counted.append(outcome)


def started(size: int) -> tuple[Loop, Transport, Stall, Request]:
    """Return a clock that runs, with a request kept."""
    loop, transport, request = Loop(), Transport(size), Request()
    stall = Stall(cast(asyncio.AbstractEventLoop, loop), cast(Any, transport), SECONDS)
    stall.keep(request)
    return loop, transport, stall, request


async def test_who_takes_nothing_is_cut_off_after_the_limit() -> None:
    loop, transport, stall, request = started(1000)
    for _ in range(LOOKS - 1):
        loop.look()
    assert not transport.aborted
    loop.look()
    assert transport.aborted
    assert loop.due is None
    assert request.counted == []
    assert stall.lost(None) == "client_slow"
    assert request.counted == ["client_slow"]


async def test_a_byte_now_and_then_starts_the_clock_anew() -> None:
    loop, transport, stall, request = started(1000)
    for _ in range(50):
        for _ in range(LOOKS - 1):
            loop.look()
        transport.size -= 1
        loop.look()
    assert not transport.aborted
    stall.cancel()
    assert request.counted == [""]
    assert loop.due is None


async def test_more_to_take_is_no_sign_that_anything_was_taken() -> None:
    loop, transport, _, _ = started(1000)
    for _ in range(LOOKS):
        transport.size += 10
        loop.look()
    assert transport.aborted


async def test_a_connection_that_ends_with_an_error_took_the_answer_with_it() -> None:
    for error, counted in ((ConnectionResetError(), "client_gone"), (None, "")):
        _, _, stall, request = started(10)
        assert stall.lost(error) == "client_gone"
        assert request.counted == [counted]


async def test_what_the_kernel_holds_is_not_taken_either() -> None:
    """Only what the peer's kernel has taken counts as taken, so that a large buffer here is no stall."""
    done = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0, limit=1)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(bytes(64 << 20))
    assert unread(cast(Any, writer.transport)) > writer.transport.get_write_buffer_size() > 0
    writer.transport.abort()
    done.set()
    server.close()

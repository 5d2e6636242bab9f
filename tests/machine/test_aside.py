"""Calls in a thread of their own: what hangs, and what fails."""

import asyncio
import logging
import threading

import pytest

from gateway.machine.aside import Aside


async def test_a_call_returns_what_it_returns_and_not_on_the_loops_thread() -> None:
    aside = Aside("threads", threading.get_ident)
    assert await aside.read(10) not in (None, threading.get_ident())


async def until_read(aside: Aside[int]) -> None:
    for _ in range(1000):
        if await aside.read(10) is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it should be read by now")


async def test_a_call_that_hangs_is_left_alone_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.machine")
    release, calls = threading.Event(), []

    def read() -> int:
        calls.append(1)
        release.wait(30)
        return len(calls)

    aside = Aside("the driver", read)
    for _ in range(5):
        assert await aside.read(0.01) is None
    assert len(calls) == 1
    release.set()
    await until_read(aside)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the driver cannot be read: that takes more than 0.01 s"),
        ("INFO", "the driver can be read again"),
    ]


async def test_a_bug_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> int:
        raise RuntimeError("oh")

    aside = Aside("the driver", read)
    for _ in range(3):
        assert await aside.read(10) is None
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info


def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_loop() -> None:
    release = threading.Event()

    async def main() -> None:
        assert await Aside("the driver", lambda: release.wait(30)).read(0.01) is None

    asyncio.run(main())
    release.set()
    for thread in threading.enumerate():
        if thread.name == "the driver":
            thread.join(10)
            assert not thread.is_alive()

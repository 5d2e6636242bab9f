"""What holds for every test: no traffic leaves the machine, the shell has no influence, nothing is random or endless.

Rules:
- A connection to an address that is not loopback is refused, whoever opens it in this process.
- Variables that would change what a client library or the gateway does are gone before a test is collected.
- Property tests draw the same examples on every run, so a red test is red again.
- Every test has a limit (`timeout` in pyproject.toml, or a mark). A coroutine is cancelled when `SHARE` of what its
  fixtures left of it is over, and cleans up as after any failure. pytest-timeout stops the rest at the limit. It raises
  an exception wherever the process is: in a callback, where the event loop logs it and runs on; or, but for us, in
  pytest, which ends everything.
- pytest-timeout fires once for each test, and it cannot interrupt C code. So a last clock, which nothing can delay,
  ends the process `GRACE` seconds later and prints where every thread is. It covers the teardown of a test, what comes
  between two tests, and the end of the process.
"""

import asyncio
import faulthandler
import functools
import gc
import inspect
import ipaddress
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import settings

FOREIGN = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "OPENAI_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "GATEWAY_",
)

for name in [name for name in os.environ if name.upper().startswith(FOREIGN)]:
    del os.environ[name]

settings.register_profile("same-every-time", derandomize=True, deadline=None, database=None)
settings.load_profile("same-every-time")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the test modules are made of: hundreds of thousands of objects that stay."""
    gc.freeze()


SHARE = 0.8
"""The part of its time after which a coroutine is cancelled: before pytest-timeout raises its exception."""
GRACE = 60.0
"""Seconds that a test which ran into its time limit has to clean up before the process is ended."""
CREDIT = 10.0
"""Seconds by which the process may be ended too early: to set the clock takes a millisecond, longer than most tests."""


ON_DEMAND = ("engines", "heavy")
"""Marks of tests that need something large installed, which a command of its own does."""


class Deadline:
    """Ends the process when a test, its teardown or the end of the session hangs."""

    def __init__(self, config: pytest.Config) -> None:
        # Output is captured while tests run; this is the terminal, or what a worker of pytest-xdist has for it.
        self._terminal = os.dup(2)
        self._limit = float(config.getini("timeout") or 0)
        self._armed = 0.0
        self._since = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Give the test its own limit, as pytest-timeout has it, and time to clean up."""
        limit = self._limit_of(item)
        if limit + GRACE != self._armed or time.monotonic() - self._since > CREDIT:
            self._arm(limit + GRACE)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Have a coroutine cancelled in time."""
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            # What its fixtures took is gone from pytest-timeout's clock already.
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            item.obj = cancelled_after(SHARE * (left or self._limit_of(item)), item.obj)

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Stop pytest-timeout's clock while the report is made, which may take long after a failure."""
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            return (yield)
        finally:
            if left:
                signal.setitimer(signal.ITIMER_REAL, left)

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self) -> None:
        """Arm again after a failure: pytest's own plugin stops this clock for the sake of debuggers."""
        if self._armed:  # an error of collection comes before the first test
            self._arm(self._armed)

    def pytest_sessionfinish(self) -> None:
        """Give the end of the session and of the process, which waits for threads, one more limit."""
        self._arm(self._limit + GRACE)

    def _limit_of(self, item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker is not None else self._limit

    def _arm(self, seconds: float) -> None:
        self._armed, self._since = seconds, time.monotonic()
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._terminal)


def cancelled_after(
    seconds: float, test: Callable[..., Coroutine[Any, Any, None]]
) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return the test with a limit of its own, which fails it with TimeoutError."""

    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(seconds) as limit:
                await test(*args, **kwargs)
        except TimeoutError as error:
            if limit.expired():
                error.add_note(f"the test did not end within {seconds:.3g} s")
            raise

    return limited


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has a mark of `ON_DEMAND`, unless the mark is asked for (`-m`)."""
    asked = str(config.getoption("markexpr"))
    unasked = [mark for mark in ON_DEMAND if mark not in asked]
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Take two processes for each core: many tests wait, for a timeout or for another process."""
    return min(8, 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread the tests over processes as tests/spread.py says, unless the command line says how (`--dist`)."""
    if config.getvalue("dist") != "load":
        return None
    from tests.spread import Groups

    return Groups(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock unless a person debugs."""
    if not config.getoption("usepdb") and config.getoption("timeout") != 0:
        config.pluginmanager.register(Deadline(config), "deadline")


def is_here(host: str) -> bool:
    """Whether a connection to this host stays on this machine."""
    if host in {"", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def stay_here(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse to leave the machine, as an audit hook. (uvloop connects below Python and is not seen.)"""
    if event not in {"socket.connect", "socket.sendto"}:
        return
    address = arguments[1]
    if isinstance(address, tuple) and not is_here(str(address[0])):
        raise PermissionError(f"tests talk to loopback only, not to {address[0]}")


sys.addaudithook(stay_here)

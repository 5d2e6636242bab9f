"""The fault tests run on uvloop, because the product does: its sockets fill, close and report otherwise than asyncio's.

Rules:
- Whatever a test does to the gateway, nothing may be logged as an error unless the test says so.
- A connection that a test leaves open fails the test; it must not keep the loop from closing.
"""

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from gateway.fleet import health


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": Loop}


class Loop(uvloop.Loop):
    """uvloop's loop, made safe for warnings that are errors.

    uvloop warns of each connection it finds open when it closes. If that warning is raised, uvloop drops the exception
    and skips the connection, then waits for ever until it has closed.
    """

    def close(self) -> None:
        """Close the loop first, then raise what it warned of."""
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            super().close()
        for warning in left:
            warnings.warn(warning.message, stacklevel=2)


class Errors(logging.Handler):
    """Keeps what is logged as an error: a traceback there is a bug, whatever the client did."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {self.format(record)}")


@pytest.fixture(autouse=True)
def errors() -> Iterator[list[str]]:
    """Yield what was logged as an error. A test that expects some takes it out."""
    handler = Errors()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
    assert handler.lines == []


@pytest.fixture
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes give up soon: for engines that cannot be reached, whose first probe every test would wait for."""
    monkeypatch.setattr(health, "TIMEOUT", 0.2)

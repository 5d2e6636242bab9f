"""Commands of the terminal that ask a gateway in the test's own loop: each in a thread, with what it says."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from gateway.__main__ import main
from tests.serving import Served


class Said(NamedTuple):
    """What a command has done: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


async def command(capsys: pytest.CaptureFixture[str], served: Served, *words: str) -> Said:
    """Run a command against the gateway."""
    capsys.readouterr()
    status = await asyncio.to_thread(main, [*words, "--url", served.url])
    said = capsys.readouterr()
    return Said(status, said.out, said.err)

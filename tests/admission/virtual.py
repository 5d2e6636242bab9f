"""Virtual time: an event loop whose clock jumps to the next timer, and the shortest way into a gate.

Rules:
- Nothing sleeps: a minute of waiting takes as long as what happens in it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from gateway.admission import waiting
from gateway.admission.gate import Gate, Place
from gateway.admission.tickets import Claim

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """A selector that does not wait, but moves the clock on by as much as it would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += max(0.0, timeout or 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at a thousand seconds."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def clock() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


async def enter(gates: Sequence[Gate], until: float, claim: Claim | None = None) -> Place:
    """Take a slot of one of the gates, waiting for it until `until`."""
    return await waiting.enter(gates, claim or Claim("k"), waiting.Patience(until), Random(1))

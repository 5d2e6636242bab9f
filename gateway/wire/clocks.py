"""The clocks of one attempt: how long each of its phases may take.

Rules:
- Limits are absolute for their phase: no trickle of bytes extends one. Only content moves the clock of a stream on.
- A waiting client costs one timer, set again when a phase begins; what happens within a phase is only noted, and looked
  at when the timer fires.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from backends.base import Failure, Kind, Phase


class Clocks(NamedTuple):
    """Limits of one attempt in seconds, and the loop time at which the whole request must be over."""

    connect: float
    send: float
    first_byte: float
    first_token: float
    idle: float
    deadline: float
    answer: float | None = None
    """The first byte's limit of an answer that is not streamed; None: as long as there is time."""


class Timed(Protocol):
    """Who is told that time ran out."""

    @property
    def stalled(self) -> bool:
        """The silence is not the engine's."""

    def on_lost(self, failure: Failure) -> None: ...


class Alarm:
    """The running clock of an attempt. `phase` and `since`, the loop time its clock began, are the attempt's to set."""

    __slots__ = ("_clocks", "_loop", "_streams", "_timed", "_timer", "phase", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, clocks: Clocks, streams: bool, timed: Timed) -> None:
        """Without a limit of its own (`answer`), an answer that is not streamed has no clock but the deadline once it
        was asked for; nor has its body."""
        self._loop = loop
        self._clocks = clocks
        self._streams = streams
        self._timed: Timed | None = timed
        self._timer: asyncio.TimerHandle | None = None
        self.phase = Phase.CONNECT
        self.since = 0.0

    def enter(self, phase: Phase, now: float) -> None:
        """A phase begins."""
        self.phase, self.since = phase, now
        self._arm()

    def stop(self) -> None:
        """The attempt is over. It and the alarm know each other; left so, only the collector would find them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due(), self._ring)

    def _due(self) -> float:
        clocks, phase = self._clocks, self.phase
        if phase is Phase.STREAM:
            limit = self.since + clocks.idle
        elif phase is Phase.SEND:
            limit = self.since + clocks.send
        elif not self._streams:
            if clocks.answer is None or phase is not Phase.FIRST_BYTE:
                return clocks.deadline
            limit = self.since + clocks.answer
        elif phase is Phase.FIRST_BYTE:
            limit = self.since + min(clocks.first_byte, clocks.first_token)
        else:
            limit = self.since + clocks.first_token
        return min(limit, clocks.deadline)

    def _ring(self) -> None:
        self._timer = None
        timed = self._timed
        if timed is None:
            return
        now = self._loop.time()
        if self.phase is Phase.STREAM and timed.stalled:
            # A client that takes nothing has a clock of its own, at the front door.
            self.since = now
        if now < self._due():
            self._arm()
        elif now >= self._clocks.deadline:
            late = Failure(Kind.TIMEOUT, "the request took longer than its total limit", phase=Phase.TOTAL)
            timed.on_lost(late)
        else:
            timed.on_lost(Failure(Kind.TIMEOUT, _LATE[self.phase], phase=self.phase))


_LATE = {
    Phase.SEND: "the engine did not read the request in time",
    Phase.FIRST_BYTE: "the engine did not begin its answer in time",
    Phase.FIRST_TOKEN: "the engine did not begin its answer in time",
    Phase.STREAM: "the engine fell silent",
}

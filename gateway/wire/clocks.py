"""The time limits of an attempt's phases.

Rules:
- A limit is absolute for its phase: comments and events without content do not extend it. In a stream new content
  restarts it, and so do bytes of an event that has not ended yet.
- Times are nanoseconds of the timeline's clock (`gateway.telemetry.timeline`).
"""

from __future__ import annotations

from typing import Final, Protocol

from backends.base import Phase

SECOND: Final = 1_000_000_000
"""Nanoseconds per second."""


class Limits(Protocol):
    """The limits of an attempt's phases in seconds, as the config states them."""

    @property
    def connect(self) -> float: ...
    @property
    def send(self) -> float: ...
    @property
    def first_byte(self) -> float: ...
    @property
    def first_token(self) -> float: ...
    @property
    def idle(self) -> float: ...
    @property
    def answer(self) -> float | None: ...


class Clocks:
    """The limits of an attempt's phases, converted once from the config.

    `connect` is in seconds, the others are in nanoseconds. `answer` limits the wait for the first byte of an answer
    that is not streamed; 0 means that only the deadline of the request limits it.
    """

    __slots__ = ("answer", "connect", "first_byte", "first_token", "idle", "send")

    def __init__(self, limits: Limits) -> None:
        self.connect: float = limits.connect
        self.send: int = round(limits.send * SECOND)
        self.first_token: int = round(limits.first_token * SECOND)
        self.first_byte: int = min(round(limits.first_byte * SECOND), self.first_token)
        self.idle: int = round(limits.idle * SECOND)
        self.answer: int = round((limits.answer or 0) * SECOND)

    def due(self, phase: Phase, since: int, streams: bool, deadline: int) -> int:
        """Return when a phase that began at `since` must be over; `deadline` is that of the whole request.

        An answer that is not streamed has the limit `answer` until it begins, and then only the deadline.
        """
        if phase is Phase.STREAM:
            limit = self.idle
        elif phase is Phase.SEND:
            limit = self.send
        elif not streams:
            limit = self.answer if phase is Phase.FIRST_BYTE else 0
        elif phase is Phase.FIRST_BYTE:
            limit = self.first_byte
        else:
            limit = self.first_token
        return min(since + limit, deadline) if limit else deadline


LATE: Final = {
    Phase.SEND: "the engine did not read the request in time",
    Phase.FIRST_BYTE: "the engine did not begin its answer in time",
    Phase.FIRST_TOKEN: "the engine did not begin its answer in time",
    Phase.STREAM: "the engine fell silent",
}
"""The error message for each phase that took too long."""

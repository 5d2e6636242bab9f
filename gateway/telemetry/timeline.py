"""Where the time of one request went: how long it was in each hop, in nanoseconds.

Rules:
- A request is in exactly one hop at a time. `mark` ends one and begins the next, with one look at the clock, so the
  hops of a request sum to its total whatever it went through, retries included.
- The clock is `time.perf_counter_ns`. The event loop's own clock is of no use here: uvloop's moves once per turn of the
  loop and counts milliseconds.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

RECEIVE: Final = 0
"""The request is read from the client."""
AUTH: Final = 1
"""The caller is identified."""
ROUTE: Final = 2
"""The gateway decodes the request and chooses a backend, for each attempt anew."""
QUEUE: Final = 3
"""The request waits for a slot of its model or of a backend."""
LOAD: Final = 4
"""The request waits for a backend that is loading its model."""
CONNECT: Final = 5
"""A connection to the backend is made. Nothing where an idle one is at hand."""
SEND: Final = 6
"""The request is written to the backend."""
FIRST_BYTE: Final = 7
"""The backend has the request and has not begun its answer."""
FIRST_TOKEN: Final = 8
"""The head of a stream is in, its first content is not."""
STREAM: Final = 9
"""The answer passes to the client."""
FINISH: Final = 10
"""The answer is out; what the request held is given back."""

HOPS: Final = (
    "receive",
    "auth",
    "route",
    "queue",
    "load",
    "connect",
    "send",
    "first_byte",
    "first_token",
    "stream",
    "finish",
)
"""The names of the hops, in the order of their numbers."""


class Timeline:
    """The hops of one request. `began` and `since`, the time at which the current hop began, are readings of the clock;
    `spent` holds the nanoseconds of each hop so far."""

    __slots__ = ("began", "hop", "since", "spent")

    def __init__(self, began: int) -> None:
        """Begin in the hop `RECEIVE` at `began`."""
        self.began: int = began
        self.since: int = began
        self.hop: int = RECEIVE
        self.spent: list[int] = [0] * len(HOPS)

    def mark(self, hop: int) -> int:
        """Begin a hop now, which ends the one before. Return the time, in nanoseconds of the clock."""
        now = perf_counter_ns()
        self.spent[self.hop] += now - self.since
        self.since = now
        self.hop = hop
        return now

    @property
    def total(self) -> int:
        """Nanoseconds from the beginning to the last mark: the sum of all hops."""
        return self.since - self.began

    @property
    def received(self) -> int:
        """The time at which the request would have been complete, had nothing else been done while it was read: the
        zero of deadlines and of the time to the first token."""
        return self.began + self.spent[RECEIVE]

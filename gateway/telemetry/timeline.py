"""The timeline of one request: how many nanoseconds it spent in each hop.

Rules:
- A request is in exactly one hop at a time. `mark` ends one hop and begins the next with a single reading of the clock.
  So the hops of a request always sum to its total time, retries included.
- The clock is `time.perf_counter_ns`. The event loop's clock is too coarse: uvloop updates it once per turn of the
  loop, in milliseconds.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

RECEIVE: Final = 0
"""The request is being read from the client."""
AUTH: Final = 1
"""The caller is being identified."""
ROUTE: Final = 2
"""The gateway decodes the request and chooses a backend; entered again for each further attempt."""
QUEUE: Final = 3
"""The request waits for a slot of its model or of a backend."""
LOAD: Final = 4
"""The request waits for a backend that is loading its model."""
CONNECT: Final = 5
"""A connection to the backend is being opened. Skipped if an idle connection is reused."""
SEND: Final = 6
"""The request is being written to the backend."""
FIRST_BYTE: Final = 7
"""The backend has received the request and has not begun to answer."""
FIRST_TOKEN: Final = 8
"""The head of a streamed answer has arrived, its first content has not."""
STREAM: Final = 9
"""The answer is being forwarded to the client."""
FINISH: Final = 10
"""The answer is complete, and the resources of the request are being released."""

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
    """The hops of one request.

    `began` and `since` are the times at which the request and its current hop began, in nanoseconds of the clock.
    `spent` holds the nanoseconds spent in each hop so far. `journal` is each hop with the time at which it began, one
    after the other in one list; None unless somebody wants it.
    """

    __slots__ = ("began", "hop", "journal", "since", "spent")

    def __init__(self, began: int) -> None:
        """Start in the hop `RECEIVE` at `began`, in nanoseconds of the clock."""
        self.began: int = began
        self.since: int = began
        self.hop: int = RECEIVE
        self.spent: list[int] = [0] * len(HOPS)
        self.journal: list[int] | None = None

    def keep_journal(self) -> None:
        """Note from now on when each hop begins, and when the one did that it is in."""
        self.journal = [self.hop, self.since]

    def mark(self, hop: int) -> int:
        """End the current hop and begin `hop`. Return the time in nanoseconds of the clock."""
        now = perf_counter_ns()
        self.spent[self.hop] += now - self.since
        self.since = now
        self.hop = hop
        if self.journal is not None:
            self.journal += (hop, now)
        return now

    @property
    def total(self) -> int:
        """Return the nanoseconds from the beginning to the last mark, which is the sum of all hops."""
        return self.since - self.began

    @property
    def until_answer(self) -> int:
        """Return the nanoseconds from `received` until the answer began, once it has ended."""
        return self.total - self.spent[RECEIVE] - self.spent[STREAM] - self.spent[FINISH]

    @property
    def received(self) -> int:
        """Return the time from which deadlines and the time to the first token are measured.

        It is `began` plus the time spent in `RECEIVE`: when the request would have been complete if the gateway had
        done nothing else meanwhile.
        """
        return self.began + self.spent[RECEIVE]

"""The clock of a client that does not read fast enough: within how long it must go on taking what was written to it.

Rules:
- It starts anew whenever less is left to be taken: in the gateway's buffer, or in the kernel's where the system tells.
  So a client may read as slowly as it likes, as long as it reads.
- A request whose answer has not left the gateway's buffer is counted when it has, or when it never will: only then it
  is known what became of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Final, Protocol

from gateway.errors import CLIENT_GONE, CLIENT_SLOW

LOOKS: Final = 8
"""How often it is looked within the time limit whether the client has taken anything. The looks are counted, not the
seconds: when the event loop is late, the client has had no chance to be in time."""


class Counted(Protocol):
    """A request whose answer is written, as `gateway.request.Exchange` has it."""

    def count(self, outcome: str = "") -> None: ...


class Stall:
    """The clock of one connection, from the moment its buffer is full until it is not or the connection is closed."""

    __slots__ = ("_kept", "_left", "_loop", "_seconds", "_timer", "_transport", "_vain", "expired")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, seconds: float) -> None:
        """Start now. After `seconds` in which the client has taken nothing, the transport is aborted."""
        self._loop: asyncio.AbstractEventLoop = loop
        self._transport: asyncio.Transport = transport
        self._seconds: float = seconds
        self._vain: int = 0
        """Looks since the client took something."""
        self._left: int = unread(transport)
        self._kept: list[Counted] = []
        self._timer: asyncio.TimerHandle = loop.call_later(seconds / LOOKS, self._look)
        self.expired: bool = False
        """Whether the client was cut off."""

    def keep(self, request: Counted) -> None:
        """Count a request when its answer is delivered, or when it is lost."""
        self._kept.append(request)

    def cancel(self) -> None:
        """Stop the clock: what was written has been taken, or almost."""
        self._end("")

    def lost(self, error: Exception | None) -> str:
        """Stop the clock, because the connection is closed, with or without an error. Return the outcome for metrics.

        A connection that the gateway closed ends without an error once everything has been taken.
        """
        outcome = CLIENT_SLOW if self.expired else CLIENT_GONE
        self._end(outcome if self.expired or error is not None else "")
        return outcome

    def _end(self, outcome: str) -> None:
        self._timer.cancel()
        kept, self._kept = self._kept, []
        for request in kept:
            request.count(outcome)

    def _look(self) -> None:
        left = unread(self._transport)
        self._vain = 0 if left < self._left else self._vain + 1
        self._left = left
        if self._vain == LOOKS:
            self.expired = True
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(self._seconds / LOOKS, self._look)


def unread(transport: asyncio.Transport) -> int:
    """Return how many bytes written to the transport its peer has not taken, as far as can be told."""
    size = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if connection is not None:
        try:
            size += int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
        except OSError:
            pass  # it is closed, or the system does not tell
    return size

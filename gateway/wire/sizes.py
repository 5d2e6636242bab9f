"""The gateway's own limits on the size of an engine's answer.

Rules:
- An answer beyond them is no fault of its engine, whose breaker does not count it, and no other backend is asked.
- What the client is told names the limit and its key in the config.
"""

from __future__ import annotations

from typing import Final

from backends.base import Failure, Kind
from backends.framing import limit

KIB: Final = 1 << 10
MIB: Final = 1 << 20


class Sizes:
    """The most bytes of one answer, streamed or whole, and of one event of a stream."""

    __slots__ = ("event", "reply")

    def __init__(self, reply: int = 256 * MIB, event: int = limit.EVENT) -> None:
        self.reply: int = reply
        self.event: int = event

    def reply_too_large(self) -> Failure:
        """Return the failure of an answer that is larger than `reply`."""
        return _beyond("the engine's answer is larger than", self.reply, "reply")

    def event_too_large(self) -> Failure:
        """Return the failure of an event that is larger than `event`."""
        return _beyond("an event of the engine's answer is larger than", self.event, "event")

    def held_too_large(self) -> Failure:
        """Return the failure of a stream that sent more than `event` before anything a client could use."""
        return _beyond("before its first content the engine's answer is larger than", self.event, "event")


def _beyond(what: str, size: int, key: str) -> Failure:
    told = f"{size} bytes"
    if size % KIB == 0:
        told = f"{size // MIB} MiB" if size % MIB == 0 else f"{size // KIB} KiB"
    return Failure(Kind.LIMIT, f"{what} {told}, a limit of the gateway: server.limits.{key}")

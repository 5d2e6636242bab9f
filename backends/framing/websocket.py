"""Where the frames of a WebSocket begin and end (RFC 6455), for a tunnel that does not read what is in them.

Rules:
- Only the heads of frames are looked at, and of these the kind and the length. Bytes are never changed.
"""

from __future__ import annotations

from typing import Final

CLOSE: Final = 8
"""The kind of a frame that closes the WebSocket."""
GOING_AWAY: Final = 1001
FAILED: Final = 1011
_LONGEST_REASON: Final = 123
"""Most bytes of the reason in a closing frame."""


class Frames:
    """The frames of one direction."""

    __slots__ = ("_head", "_left", "closing")

    def __init__(self) -> None:
        self._head: bytes = b""
        """What has come of a head that is not complete."""
        self._left: int = 0
        """Bytes of the current frame's payload that are still to come."""
        self.closing: bool = False
        """Whether a closing frame has begun: no frame follows it."""

    @property
    def between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Take note of the next bytes."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            known = len(self._head)
            head = self._head + data[at : at + _size(self._head) - known]
            at += len(head) - known
            self._head = head
            if len(head) == _size(head):
                self._begin(head)

    def _begin(self, head: bytes) -> None:
        """Begin the payload of the frame with this head."""
        self._head = b""
        self.closing = self.closing or head[0] & 15 == CLOSE
        length = head[1] & 127
        if length == 126:
            length = int.from_bytes(head[2:4], "big")
        elif length == 127:
            length = int.from_bytes(head[2:10], "big")
        self._left = length


def _size(head: bytes) -> int:
    """Return how many bytes a head has, as far as its beginning tells."""
    if len(head) < 2:
        return 2
    length = head[1] & 127
    return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & 128 else 0)


def closing(code: int, reason: str) -> bytes:
    """Return the closing frame of a server, with a code and a reason, which is cut where it is too long."""
    words = reason.encode()[:_LONGEST_REASON].decode(errors="ignore").encode()
    return bytes((0x80 | CLOSE, 2 + len(words))) + code.to_bytes(2, "big") + words

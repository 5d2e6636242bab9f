"""Channels that keep what an answer is: beside its way to the client, or for an answer that goes nowhere.

Rules:
- What is kept is bounded; an answer that is longer is not kept at all.
- `Tee` changes nothing of what the client gets, of its flow control, or of how it leaves. It stands in for the channel
  of one request only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from backends.base import Headers
from gateway.request import Exchange, WayBack


class Kept:
    """The status and the body of an answer."""

    __slots__ = ("_left", "_parts", "headers", "status")

    def __init__(self, most: int) -> None:
        """Keep at most so many bytes of the body."""
        self._left: int = most
        self._parts: list[bytes] = []
        self.status: int = 0
        """The status; 0 where there was no answer."""
        self.headers: Headers = ()
        """The headers of an answer that came in one piece, and that nobody else waits for."""

    def add(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)
        else:
            self._parts.clear()

    def forget(self) -> None:
        """Keep nothing, now and later."""
        self._left = -1
        self._parts.clear()

    @property
    def body(self) -> bytes | None:
        """The body; None where it was too long to be kept."""
        return b"".join(self._parts) if self._left >= 0 else None


class Tee(WayBack):
    """The channel of one request to its client, which also keeps the answer."""

    __slots__ = ("_kept", "_way")

    def __init__(self, way: WayBack, kept: Kept) -> None:
        """Take the place of `way`, before anything was sent on it."""
        super().__init__(way.loop)
        self._way: WayBack = way
        self._kept: Kept = kept
        self.exchange = way.exchange
        self.gone = way.gone
        self.started = way.started
        self.source = way.source
        way.source = self

    def pause(self) -> None:
        """Pause the source, because the client's socket buffer is full."""
        if self.source is not None:
            self.source.pause()

    def resume(self) -> None:
        """Resume the source."""
        if self.source is not None:
            self.source.resume()

    def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._kept.status = status
        self._way.start(status, headers)

    def write(self, data: bytes) -> None:
        self._kept.add(data)
        self._way.write(data)

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        self._kept.add(framed[start:end])
        self._way.write_chunk(framed, start, end)

    def finish(self) -> None:
        self._way.finish()

    def abort(self) -> None:
        self._way.abort()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = True
        self._kept.status = status
        self._kept.add(body)
        self._way.reply(status, headers, body)

    def release(self) -> None:
        self._way.source = self._way.exchange = None
        self._way.release()

    def client(self, headers: Mapping[bytes, bytes]) -> str:
        return self._way.client(headers)

    def keep(self, exchange: Exchange) -> bool:
        return self._way.keep(exchange)


class Recording(Tee):
    """The channel of one request to its client, which tells the answer to somebody once it has gone out completely.

    Of a stream only the events are kept among which the last one is.
    """

    __slots__ = ("_done", "_last", "_marks")

    def __init__(
        self, way: WayBack, kept: Kept, marks: tuple[bytes, ...], done: Callable[[bytes], None]
    ) -> None:
        """Take the place of `way`. `marks` stand in the last event of a stream, one of them; a whole answer has none.

        `done` is called with the answer's body, or those events, where its status is 200.
        """
        Tee.__init__(self, way, kept)
        self._marks: tuple[bytes, ...] = marks
        self._done: Callable[[bytes], None] = done
        self._last: bytes = b""

    def write(self, data: bytes) -> None:
        if self._marks:
            self._look(data)
        else:
            self._kept.add(data)
        self._way.write(data)

    def write_chunk(self, framed: bytes, start: int, end: int) -> None:
        if self._marks:
            self._look(framed[start:end])
        else:
            self._kept.add(framed[start:end])
        self._way.write_chunk(framed, start, end)

    def finish(self) -> None:
        self._way.finish()
        self._over(self._last if self._marks else self._kept.body)

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        Tee.reply(self, status, headers, body)
        self._over(self._kept.body)

    def _look(self, data: bytes) -> None:
        for mark in self._marks:
            if mark in data:
                self._last = data

    def _over(self, body: bytes | None) -> None:
        if body and self._kept.status == 200:
            self._done(body)


class Nowhere(WayBack):
    """The channel of an answer that nobody waits for."""

    __slots__ = ("_kept",)

    def __init__(self, loop: asyncio.AbstractEventLoop, kept: Kept) -> None:
        """Keep the answer."""
        super().__init__(loop)
        self._kept: Kept = kept

    def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._kept.status = status

    def write(self, data: bytes) -> None:
        self._kept.add(data)

    def finish(self) -> None:
        """Do nothing: what was written is kept."""

    def abort(self) -> None:
        """Do nothing: the request's outcome says that the answer is incomplete."""

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = True
        self._kept.status, self._kept.headers = status, headers
        self._kept.add(body)

    def release(self) -> None:
        """Do nothing: there is no connection."""


class Told(Nowhere):
    """The channel of an answer that nobody waits for, which tells the pieces of a stream to somebody as they come."""

    __slots__ = ("_hear", "turn")

    def __init__(self, loop: asyncio.AbstractEventLoop, kept: Kept, hear: Callable[[bytes], None]) -> None:
        """Call `hear` with each piece of a stream; an answer in one piece is kept."""
        super().__init__(loop, kept)
        self._hear: Callable[[bytes], None] = hear
        self.turn: object = None
        """What is to be kept of the request with its answer, for whoever keeps it."""

    def write(self, data: bytes) -> None:
        self._hear(data)

"""One response that is made in the background, in the process that makes it: its state, its events, who follows it.

Rules:
- Its events are kept in memory until it is over, `LARGEST` bytes at most; what is larger has failed.
- A client that follows it is sent as much as it takes, and costs the response nothing when it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from backends.surfaces.responses import background as said
from gateway.api.kept import LARGEST, Turn
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.wire.tee import Kept, Told

CANCELLED: Final = "the client has cancelled this response"
_ENDED_ODDLY: Final = "the gateway could not read the answer"
_TOO_LARGE: Final = f"the answer is larger than the {LARGEST} bytes that are kept of a response"


class Run:
    """One response."""

    def __init__(self, owner: str, begun: dict[str, Any], is_stream: bool) -> None:
        """Begin with a response that is queued; `is_stream`: its client wants events."""
        self.owner = owner
        self.name: str = begun["id"]
        self.is_stream = is_stream
        self.response = begun
        """The response as it is now."""
        self.exchange: Exchange | None = None
        """The request by which it is made."""
        self.is_cancelled = False
        self.is_over = False
        self.stored = 0
        """How many events the store has."""
        self._begun = begun
        self._told = said.Events(begun)
        self._events: list[bytes] = list(self._told.first) if is_stream else []
        self._size = 0
        self._problem = ""
        self._answer = Kept(LARGEST)
        self._way: Told | None = None
        self._news = asyncio.Event()

    def way(self, loop: asyncio.AbstractEventLoop) -> Told:
        """Return the channel for the answer."""
        self._way = Told(loop, self._answer, self._hear)
        return self._way

    @property
    def turn(self) -> Turn | None:
        """What is kept of the request; None where it did not come so far."""
        turn = None if self._way is None else self._way.turn
        return turn if isinstance(turn, Turn) else None

    def _hear(self, data: bytes) -> None:
        """Take a piece of the engine's stream."""
        if self._problem or self.is_cancelled:
            return
        self._size += len(data)
        try:
            events = self._told.feed(data)
        except (msgspec.MsgspecError, KeyError):
            self._problem = _ENDED_ODDLY
        if self._size > LARGEST:
            self._problem = _TOO_LARGE
        if self._problem:
            # Not within the call by which the answer's source gives it.
            asyncio.get_running_loop().call_soon(self.interrupt, GatewayError(Own.INVALID, self._problem))
            return
        self._add(events)

    def _add(self, events: list[bytes]) -> None:
        self._events += events
        if events:
            self._tell()

    def _tell(self) -> None:
        """Wake those who follow."""
        self._news.set()
        self._news = asyncio.Event()

    def begins(self) -> bool:
        """Tell whether its answer has begun since the last call, and note it."""
        if self.response["status"] != said.QUEUED or self.exchange is None or not self.exchange.attempts:
            return False
        self.response = self._begun = self._begun | {"status": said.IN_PROGRESS}
        return True

    def cancel(self) -> None:
        """End it, for its client does not want it any more."""
        if not self.is_over and not self.is_cancelled:
            self.is_cancelled = True
            self.interrupt(GatewayError(Own.CANCELLED, CANCELLED))

    def interrupt(self, error: GatewayError) -> None:
        """End the request by which it is made."""
        if self.exchange is not None:
            self.exchange.interrupt(error)

    def conclude(self) -> dict[str, Any]:
        """Return the response when its request is over."""
        response = self._concluded()
        if self.is_stream:
            self._add(self._told.ended(response))
        self.response = response
        return response

    def _concluded(self) -> dict[str, Any]:
        if self.is_cancelled:
            return said.cancelled(self._begun)
        if self._problem:
            return said.failed(self._begun, self._problem)
        if self._answer.status == 200 and self.is_stream:
            last = self._told.last
            return last if last["status"] not in said.OPEN else said.failed(self._begun, _ENDED_ODDLY)
        body = self._answer.body
        if body is None:
            return said.failed(self._begun, _TOO_LARGE)
        try:
            return said.answered(self._begun, self._answer.status, body)
        except (msgspec.MsgspecError, KeyError):
            return said.failed(self._begun, _ENDED_ODDLY)

    def over(self) -> None:
        """Note that all is done: whoever follows it has everything."""
        self.is_over = True
        self._tell()

    def unstored(self) -> tuple[int, list[bytes]]:
        """Return the events that the store does not have, behind the number of the first of them."""
        return self.stored, self._events[self.stored :]

    async def follow(self, position: int) -> AsyncIterator[bytes]:
        """Yield the events from a number on, until it is over."""
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self.is_over:
                return
            await self._news.wait()

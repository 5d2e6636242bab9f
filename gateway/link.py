"""The link between the master and a worker: messages, questions and answers on a socket pair.

Rules:
- One JSON object per line. Each side takes its end as the end of the other.
- A question waits a bounded time for its answer; many may be under way at once.
- What is long comes in parts, so that neither side's event loop is held by one of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

PATIENCE = 2.0
"""Seconds a worker may take to answer a question of the master. The master may take twice that, for it asks workers."""
LINE = 64 << 20
"""Bytes of the longest line: the metrics of a worker with very many models."""

Message = dict[str, Any]


class _Parts:
    """The parts of one answer that have come, and the limit on the wait for the next one."""

    def __init__(self, limit: asyncio.Timeout, patience: float) -> None:
        self.items: list[Any] = []
        self._limit, self._patience = limit, patience

    def take(self, part: list[Any]) -> None:
        self.items += part
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._patience)


class Link:
    """One end of the link between the master and a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use an open connection; nothing is read before `listen`."""
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._parts: dict[int, _Parts] = {}
        """What has come of answers in parts, by the number of the question."""

    @classmethod
    async def on(cls, end: socket.socket) -> Link:
        """Return the link over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE))

    def tell(self, kind: str, **content: Any) -> None:
        """Send one message; do nothing where the other side is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **content}).encode() + b"\n")

    async def ask(self, kind: str, patience: float = PATIENCE, **content: Any) -> Any:
        """Send a question and wait for its answer, at most `patience` seconds. Raises TimeoutError where none comes."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(kind, number=number, **content)
        try:
            async with asyncio.timeout(patience):
                return await answer
        finally:
            del self._asked[number]

    async def ask_for_parts(self, kind: str, patience: float = PATIENCE) -> list[Any]:
        """Send a question whose answer is a list that comes in parts; wait at most `patience` seconds for each.

        Raises TimeoutError where none comes.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(kind, number=number)
        try:
            async with asyncio.timeout(patience) as limit:
                parts = self._parts[number] = _Parts(limit, patience)
                await answer
            return parts.items
        finally:
            del self._asked[number], self._parts[number]

    async def answer_in_parts(self, message: Message, parts: Iterable[list[Any]]) -> None:
        """Answer a question with a list whose parts are made and sent one by one, so that others get their turns."""
        for part in parts:
            self.tell("part", number=message["number"], content=part)
            await asyncio.sleep(0)
        self.answer(message, None)

    async def listen(self, on_message: Callable[[Message], None]) -> None:
        """Pass on the other side's messages until it is gone."""
        while line := await self._line():
            message = json.loads(line)
            if message["kind"] == "part":
                if message["number"] in self._parts:
                    self._parts[message["number"]].take(message["content"])
            elif message["kind"] != "answer":
                on_message(message)
            elif message["number"] in self._asked and not self._asked[message["number"]].done():
                self._asked[message["number"]].set_result(message["content"])
        self._writer.close()

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except OSError:
            # A process that is killed with messages unread resets the link instead of ending it.
            return b""

    def answer(self, message: Message, content: Any) -> None:
        """Answer a question."""
        self.tell("answer", number=message["number"], content=content)

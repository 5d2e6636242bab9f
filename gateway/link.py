"""The link between the master and a worker: messages, questions and answers on a socket pair.

Rules:
- One JSON object per line. Each side takes its end as the end of the other.
- A question waits a bounded time for its answer; many may be under way at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable
from typing import Any

PATIENCE = 2.0
"""Seconds a worker may take to answer a question of the master. The master may take twice that, for it asks workers."""
LINE = 64 << 20
"""Bytes of the longest line: the metrics of a worker with very many models."""

Message = dict[str, Any]


class Link:
    """One end of the link between the master and a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use an open connection; nothing is read before `listen`."""
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}

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

    async def listen(self, on_message: Callable[[Message], None]) -> None:
        """Pass on the other side's messages until it is gone."""
        while line := await self._line():
            message = json.loads(line)
            if message["kind"] != "answer":
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

"""The clients of the chaos run: who reads to the end, who reads slowly, who leaves, and when.

Rules:
- A client is a plain socket on loopback, so it ends as it means to: with FIN or with RST.
- Everything random comes from one seeded source. Every wait has a limit.
- Each way of behaving asks for a model of its own, so that the gateway's counters tell them apart.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.answers import OK, Answer, Asked, WrongAnswer, judge

READ, FIN, RST, PIPELINED = "read", "left-fin", "left-rst", "left-pipelined"
MODELS = (READ, FIN, RST, PIPELINED)
PATIENCE = 30.0
"""Seconds until an answer that does not come is a violation; the gateway's own limits are far shorter."""
_RESET = struct.pack("ii", 1, 0)
_LARGE = 8_000
"""Bytes of each word of an answer that fills buffers."""


@dataclass
class Ledger:
    """What all clients together sent and saw."""

    sent: Counter[str] = field(default_factory=Counter)
    """Whole requests, by model."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers of which at least the head was seen, by model."""
    unsent: Counter[str] = field(default_factory=Counter)
    """Requests whose body was left incomplete, by how the client left."""
    ends: Counter[str] = field(default_factory=Counter)
    healthy: Counter[str] = field(default_factory=Counter)
    """How requests ended for which no engine was told to fail and whose client stayed."""
    wrong: list[str] = field(default_factory=list)


class Connection:
    """One connection to the gateway."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    @classmethod
    async def open(cls, port: int, receive_buffer: int = 0) -> Connection:
        """Connect. `receive_buffer` in bytes makes the kernel hold little for a client that reads slowly."""
        raw = socket.socket()
        raw.setblocking(False)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        return cls(raw)

    async def send(self, data: bytes) -> None:
        """Send everything. A connection that is gone takes it silently: the answer tells."""
        try:
            await self._loop.sock_sendall(self._raw, data)
        except OSError:
            pass

    async def read(self, answer: Answer, size: int = 1 << 16) -> bool:
        """Read a piece of an answer; return False at the end of the answer or of the connection."""
        data, self._rest = self._rest, b""
        if not data:
            try:
                async with asyncio.timeout(PATIENCE):
                    data = await self._loop.sock_recv(self._raw, size)
            except OSError:  # a timeout is one
                return False
        if not data:
            return False
        self._rest = answer.feed(data)
        return not answer.ended and not answer.wrong

    async def whole(self) -> Answer:
        """Read one answer to its end."""
        answer = Answer()
        while await self.read(answer):
            pass
        return answer

    def leave(self, how: str = FIN) -> None:
        """Close with FIN or RST; a second time does nothing."""
        if self._raw.fileno() < 0:
            return
        if how == RST:
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        else:
            # A plain close would send a RST if anything is still unread.
            try:
                self._raw.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self._raw.close()


class Clients:
    """Many clients at once, each asking again and again until so many requests are made."""

    def __init__(
        self, port: int, key: str, seed: int, *, faults: Sequence[str] = (), broken: Container[str] = ()
    ) -> None:
        """`faults`: what engines may be told to do. `broken`: those of them that no complete answer can follow."""
        self.port, self.key, self.faults, self.broken = port, key, faults, broken
        self.rng = Random(seed)
        self.ledger = Ledger()
        self.left = 0
        self._seed = seed
        self._number = 0
        ways: Sequence[tuple[float, Callable[[Connection], Awaitable[bool]]]] = (
            (0.66, self._reads),
            (0.04, self._reads_slowly),
            (0.01, self._stops_reading),
            (0.03, self._pipelines),
            (0.13, self._leaves),
            (0.07, self._leaves_while_sending),
            (0.06, self._leaves_with_more_pipelined),
        )
        self._weights, self._ways = zip(*ways, strict=True)

    async def ask(self, requests: int, clients: int) -> None:
        """Make at least so many requests with so many clients."""
        self.left = requests
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        connection: Connection | None = None
        while self.left > 0:
            way = self.rng.choices(self._ways, self._weights)[0]
            connection = connection or await self._connected()
            if not await way(connection):
                connection.leave()
                connection = None
        if connection is not None:
            connection.leave()

    async def _connected(self, receive_buffer: int = 0) -> Connection:
        """Connect, again if the listener's queue was full."""
        for _ in range(50):
            try:
                return await Connection.open(self.port, receive_buffer)
            except OSError:
                await asyncio.sleep(0.1)
        raise ConnectionError("the gateway takes no connections any more")

    def asked(self, model: str, *, fault: bool = True, words: int = 0, word_size: int = 0) -> Asked:
        """Draw the next request."""
        self._number += 1
        self.left -= 1
        stream = self.rng.random() < 0.9
        chosen = self.rng.choice(self.faults) if fault and stream and self.rng.random() < 0.35 else ""
        return Asked(
            f"s{self._seed}n{self._number}",
            model,
            stream or bool(word_size),
            words or self.rng.randrange(12, 24),
            chosen,
            word_size,
        )

    def slow(self, number: int, fault: str) -> Asked:
        """Return a stream that takes a while; the number decides how long."""
        return Asked(f"d{self._seed}n{number}", READ, True, 12 + number % 24, fault)

    async def send(self, connection: Connection, *many: Asked) -> None:
        """Send whole requests in one write and count them."""
        for asked in many:
            self.ledger.sent[asked.model] += 1
        await connection.send(b"".join(asked.request(self.port, self.key) for asked in many))

    def judge(self, asked: Asked, answer: Answer, *, patient: bool = True) -> bool:
        """Count an answer; return whether its connection may be used again."""
        ledger = self.ledger
        if answer.begun:
            ledger.answered[asked.model] += 1
        try:
            end = judge(asked, answer, patient=patient)
            if end == OK and asked.fault in self.broken:
                raise WrongAnswer("a whole answer, though the engine broke it off")
        except (WrongAnswer, ValueError, LookupError, TypeError) as error:
            ledger.wrong.append(f"{asked.token} ({asked.fault or 'healthy'}, {asked.model}): {error}")
            return False
        ledger.ends[end] += 1
        if patient and not asked.fault:
            ledger.healthy[end] += 1
        return answer.ended and answer.headers.get("connection") != "close"

    # Each way of behaving returns whether the connection may be used again.

    async def _reads(self, connection: Connection) -> bool:
        asked = self.asked(READ)
        await self.send(connection, asked)
        return self.judge(asked, await connection.whole())

    async def _pipelines(self, connection: Connection) -> bool:
        """Send several requests at once and read every answer, in order."""
        many = [self.asked(READ, fault=False) for _ in range(self.rng.randrange(2, 5))]
        await self.send(connection, *many)
        usable = True
        for asked in many:
            usable = self.judge(asked, await connection.whole()) and usable
        return usable

    async def _reads_slowly(self, _: Connection) -> bool:
        """Read a large answer in small pieces with pauses, through a small buffer."""
        connection = await self._connected(receive_buffer=4096)
        asked, answer = self.asked(READ, fault=False, word_size=_LARGE), Answer()
        await self.send(connection, asked)
        pauses = 20
        while await connection.read(answer, 2048 if pauses else 1 << 16):
            if pauses:
                pauses -= 1
                await asyncio.sleep(self.rng.random() * 0.05)
        self.judge(asked, answer)
        connection.leave()
        return True

    async def _stops_reading(self, _: Connection) -> bool:
        """Read nothing of a large answer for longer than the gateway waits, then what is left."""
        connection = await self._connected(receive_buffer=4096)
        asked = self.asked(READ, fault=False, words=200, word_size=_LARGE)
        await self.send(connection, asked)
        await asyncio.sleep(2.0)
        self.judge(asked, await connection.whole(), patient=False)
        connection.leave()
        return True

    async def _leaves(self, connection: Connection) -> bool:
        how = self.rng.choice((FIN, RST))
        asked = self.asked(how)
        await self.send(connection, asked)
        self.judge(asked, await self._moment(connection), patient=False)
        connection.leave(how)
        return False

    async def _leaves_with_more_pipelined(self, connection: Connection) -> bool:
        how = self.rng.choice((FIN, RST))
        many = [self.asked(PIPELINED) for _ in range(self.rng.randrange(2, 5))]
        await self.send(connection, *many)
        self.judge(many[0], await self._moment(connection), patient=False)
        connection.leave(how)
        return False

    async def _leaves_while_sending(self, connection: Connection) -> bool:
        how = self.rng.choice((FIN, RST))
        asked = self.asked(READ, word_size=self.rng.choice((0, _LARGE)))
        data = asked.request(self.port, self.key)
        head = data.index(b"\r\n\r\n") + 4
        await connection.send(data[: self.rng.randrange(head, len(data))])
        self.ledger.unsent[how] += 1
        await asyncio.sleep(self.rng.random() * 0.01)
        connection.leave(how)
        return False

    async def _moment(self, connection: Connection) -> Answer:
        """Read until a random moment: a while after asking, or some bytes into the answer."""
        answer = Answer()
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.random() ** 2 * 0.06)
            return answer
        wanted = self.rng.randrange(1, 4000)
        while len(answer.body) < wanted and await connection.read(answer, 512):
            pass
        return answer

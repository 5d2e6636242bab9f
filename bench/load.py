"""A raw client for one URL: JSON and streams in a closed loop, and bursts. It is cheap enough to share the machine.

Rules:
- The loop is closed: each connection sends its next request when the last answer is complete, so nothing piles up.
- An answer is complete when the last byte that its framing promises is there; a stream also needs its last event.
  Anything else is an error, counted under a name.
- Times are seconds of `perf_counter`, taken when a read returns. Only what happens inside the window counts.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bench import accounting

_LENGTH = re.compile(rb"content-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"transfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"connection:[ \t]*close", re.IGNORECASE)
_END = b"0\r\n\r\n"
RECONNECT = 0.05
"""Seconds before a lost connection is opened again."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request, ready to be sent again and again."""

    port: int
    data: bytes
    stream: bool
    event: bytes = b"data:"
    """What is in each event of a stream that counts."""
    done: bytes = b"[DONE]"
    """What is in the last event of a stream that is complete."""
    reach: int = 32
    """Within how many bytes of the end of a stream that is."""

    @classmethod
    def to(cls, port: int, path: str, key: str, body: bytes, **more: Any) -> Question:
        """Make a POST of JSON; `more` is what is known of its answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return cls(port, head.encode() + body, **more)

    @classmethod
    def chat(
        cls,
        port: int,
        model: str,
        key: str,
        *,
        stream: bool = False,
        tokens: int = 50,
        gap_ms: int = 0,
        size: int = 200,
    ) -> Question:
        """Make a chat completion with a prompt of `size` bytes."""
        prompt = f"gap-ms={gap_ms} ".ljust(size, "x")
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "stream": stream,
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        return cls.to(port, "/v1/chat/completions", key, text, stream=stream)


@dataclass(slots=True)
class Tally:
    """The counts of one window. Durations are in seconds."""

    seconds: float = 0.0
    cpu: float = 0.0
    requests: int = 0
    events: int = 0
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which `share` of the values lie; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Load:
    """A number of connections that ask one question again and again."""

    def __init__(self, question: Question, connections: int) -> None:
        self.question = question
        self.tally = Tally()
        self.stopped = False
        self.loops = True
        """Whether a connection asks again when it has its answer."""
        self.clients = [Client(self) for _ in range(connections)]
        self.open = 0
        """How many answers are waited for."""
        self.idle = asyncio.Event()
        """Set when no answer is waited for any more. Only for load that does not loop."""

    async def connect(self) -> None:
        """Open every connection without sending a request."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(self.clients), 100):
            some = self.clients[start : start + 100]
            await asyncio.gather(
                *(loop.create_connection(_same(client), "127.0.0.1", self.question.port) for client in some)
            )

    def start(self, spread: float = 0.0) -> None:
        """Ask on every connection. Spread the starts over `spread` seconds, so that streams do not run in step."""
        loop = asyncio.get_running_loop()
        self.open = len(self.clients)
        self.idle.clear()
        for number, client in enumerate(self.clients):
            loop.call_later(spread * number / len(self.clients), client.ask)

    async def window(self, seconds: float, pid: int) -> Tally:
        """Count for `seconds`, with the CPU that the process tree of `pid` uses meanwhile."""
        self.tally = tally = Tally()
        cpu, began = accounting.usage(pid).cpu, time.perf_counter()
        await asyncio.sleep(seconds)
        tally.seconds = time.perf_counter() - began
        tally.cpu = accounting.usage(pid).cpu - cpu
        self.tally = Tally()
        return tally

    def answered(self) -> None:
        """Count down the answers that are waited for, after one is complete or failed."""
        self.open -= 1
        if not self.open:
            self.idle.set()

    async def stop(self) -> None:
        """Close every connection, whatever it is waiting for."""
        self.stopped = True
        for client in self.clients:
            client.abandon()
        await asyncio.sleep(0)


def _same(client: Client) -> Callable[[], Client]:
    return lambda: client


class Client(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_asked",
        "_closes",
        "_head",
        "_last",
        "_left",
        "_load",
        "_tail",
        "_transport",
        "busy",
        "first",
    )

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self.busy = False
        self.first = 0.0
        """When the first event of this answer came; 0 if none has."""
        self._clear()

    def _clear(self) -> None:
        self._head = b""
        self._left: int | None = None
        """Bytes of the body to come; negative while it is chunked, None while the head is read."""
        self._tail = b""
        self._asked = self._last = 0.0
        self._closes = False

    def ask(self) -> None:
        """Send the question, after reconnecting if necessary."""
        if self._load.stopped:
            self.abandon()
            return
        if self._transport is None:
            asyncio.get_running_loop().create_task(self._reconnect())
            return
        self._clear()
        self.busy = True
        self.first = 0.0
        self._asked = time.perf_counter()
        self._transport.write(self._load.question.data)

    def abandon(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _reconnect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self._load.question.port)
        except OSError as error:
            self._failed(type(error).__name__)
        else:
            self.ask()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self._failed("cut" if self._left is not None else "closed")

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._left is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            data = self._head[end:]
            self._on_head(self._head[:end])
        if self._left is not None and self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._finished(now)
            return
        self._on_chunks(data, now)

    def _on_head(self, head: bytes) -> None:
        self._head = head
        self._closes = _CLOSES.search(head) is not None
        length = _LENGTH.search(head)
        self._left = -1 if _CHUNKED.search(head) else int(length[1]) if length else 0

    def _on_chunks(self, data: bytes, now: float) -> None:
        """Count the events in new bytes of a stream; one may be split, so the search starts a little earlier."""
        seen = self._tail + data
        question = self._load.question
        events = seen.count(question.event) - self._tail.count(question.event)
        if events:
            tally = self._load.tally
            tally.events += events
            if not self.first:
                self.first = now
                tally.first.append(now - self._asked)
            else:
                tally.gaps.append(now - self._last)
            self._last = now
        self._tail = seen[-question.reach :]
        if self._tail.endswith(_END):
            self._finished(now)

    def _finished(self, now: float) -> None:
        load = self._load
        self.busy = False
        status = self._head[9:12]
        if status != b"200":
            load.tally.errors[f"status {status.decode(errors='replace')}"] += 1
        elif load.question.stream and load.question.done not in self._tail:
            load.tally.errors[f"no {load.question.done.decode()}"] += 1
        else:
            load.tally.requests += 1
            load.tally.latency.append(now - self._asked)
        if self._closes and self._transport is not None:
            self._transport.close()
            self._transport = None
        if load.loops:
            self.ask()
        else:
            load.answered()

    def _failed(self, kind: str) -> None:
        self.busy = False
        if self._load.stopped:
            return
        self._load.tally.errors[kind] += 1
        if self._load.loops:
            asyncio.get_running_loop().call_later(RECONNECT, self.ask)
        else:
            self._load.answered()


async def closed_loop(
    question: Question, connections: int, *, seconds: float, warm: float, pid: int, spread: float = 0.0
) -> Tally:
    """Load a URL for `warm` seconds without counting, then count for `seconds`."""
    load = Load(question, connections)
    await load.connect()
    load.start(spread)
    await asyncio.sleep(warm + spread)
    try:
        return await load.window(seconds, pid)
    finally:
        await load.stop()


async def burst(question: Question, connections: int, *, times: int, patience: float = 30.0) -> Tally:
    """Ask on all connections at the same moment, `times` times, each time when every answer is complete.

    A first burst warms the connections up and is not counted. No answer after `patience` seconds is an error.
    """
    load = Load(question, connections)
    load.loops = False
    total = Tally()
    try:
        await load.connect()
        for number in range(times + 1):
            load.tally = tally = Tally()
            load.start()
            try:
                await asyncio.wait_for(load.idle.wait(), patience)
            except TimeoutError:
                tally.errors["no answer"] += load.open
            if number or tally.errors:
                total.first += tally.first
                total.requests += tally.requests
                total.errors += tally.errors
            if load.open:
                break
    finally:
        await load.stop()
    return total

"""The client's end as raw bytes: what was sent to it, and how the connection ended.

Rules:
- Knows HTTP only as far as a test needs it: a head up to the blank line, chunks, nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from backends.framing.sse import Framer
from gateway.fake.engine import FakeEngine

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]


def chat(*, stream: bool = True, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "max_tokens": 4, "stream": stream} | fields


def request(
    body: Any = None, path: str = CHAT, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a request's bytes; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = {"host": "fake", "content-length": str(len(data))} | dict(headers or {})
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


@dataclass
class Received:
    """All bytes of a connection until its end, and whether that was a FIN or an RST."""

    data: bytes
    end: str

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def rest(self) -> bytes:
        """The body as it is on the wire."""
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        return unchunked(self.rest)[0] if "transfer-encoding" in self.headers else self.rest

    @property
    def whole(self) -> bool:
        """Whether the chunks came to their end with nothing after it."""
        return unchunked(self.rest)[1]

    @property
    def payloads(self) -> list[bytes]:
        """The events of the body."""
        framer = Framer()
        return framer.feed(self.body) + framer.close()

    @property
    def chunks(self) -> list[Any]:
        """The events of the body but `[DONE]`, decoded."""
        return [json.loads(payload) for payload in self.payloads if payload != b"[DONE]"]

    @property
    def text(self) -> str:
        """What the choices of a streamed chat said."""
        said = (choice["delta"].get("content", "") for chunk in self.chunks for choice in chunk["choices"])
        return "".join(said)

    def json(self) -> Any:
        return json.loads(self.body)


def unchunked(data: bytes) -> tuple[bytes, bool]:
    """Return the payload of a chunked body and whether it ends where the data ends; trailers are passed over."""
    out = b""
    while data:
        line, found, rest = data.partition(b"\r\n")
        size = int(line, 16)
        if not found or (size and len(rest) < size + 2):
            return out + rest[:size], False
        if not size:
            return out, rest.endswith(b"\r\n") and b"\r\n\r\n" not in rest[:-2]
        out, data = out + rest[:size], rest[size + 2 :]
    return out, False


class Wire:
    """One connection to a fake engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._read = b""

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with the mark."""
        while mark not in self._read:
            data = await self._reader.read(1 << 16)
            assert data, f"the connection ended before {mark!r}: {self._read!r}"
            self._read += data
        before, _, self._read = self._read.partition(mark)
        return before + mark

    async def rest(self) -> Received:
        """Everything until the connection ends."""
        try:
            while data := await self._reader.read(1 << 16):
                self._read += data
            end = "fin"
        except ConnectionResetError:
            end = "reset"
        return Received(self._read, end)

    def leave(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(engine: FakeEngine) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    wire = Wire(reader, writer)
    try:
        yield wire
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def ask(
    engine: FakeEngine,
    body: Any = None,
    path: str = CHAT,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> Received:
    """One request on a connection of its own, read to the end."""
    async with connected(engine) as wire, asyncio.timeout(10):
        wire.send(request(body, path, method, {"connection": "close"} | dict(headers or {})))
        return await wire.rest()

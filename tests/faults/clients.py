"""What the tests of clients share: configs, clients that misbehave, waiting for a state, and the invariants afterwards.

Rules:
- A client is a plain socket, so that what goes over the wire and how it ends is the test's decision to the byte.
- Nothing sleeps to be in time: `until` looks until something holds. Its patience only turns a hang into a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.fake.engine import FakeEngine
from tests.serving import Answer, Served

CHAT = "/v1/chat/completions"
PATIENCE = 20.0
"""Seconds until something that should happen at once counts as not happening."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value for ending a connection with RST."""


def config(
    *urls: str,
    model: str = "",
    server: str = "",
    defaults: str = "timeouts: {connect: 10s}",
    extra: str = "",
    kind: str = "openai",
) -> str:
    """Return a config with the model `m` on one backend for each URL.

    `model`, `server` and `defaults` hold the inside of a YAML flow map, `extra` further sections; `kind` is the kind of
    engine. A busy machine has time to connect, unless `defaults` say otherwise.
    """
    backends = "\n".join(
        f'  engine-{number}: {{engine: {kind}, url: "{url}", api_key: backend-secret, models: [up]}}'
        for number, url in enumerate(urls)
    )
    targets = ", ".join(f"engine-{number}: up" for number in range(len(urls)))
    return f"""
server: {{listen: "127.0.0.1:0", {server}}}
defaults: {{{defaults}}}
backends:
{backends}
models:
  m: {{targets: {{{targets}}}, {model}}}
{extra}
"""


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """Return a chat request for the model `m`."""
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def http(
    body: Any = None, *headers: str, path: str = CHAT, method: str = "POST", version: str = "1.1"
) -> bytes:
    """Return the bytes of a request. `body` is JSON unless it is bytes or None; `headers` are whole lines."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "Host: gateway.localhost", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def said(answer: Answer) -> str:
    """Return the text of a streamed answer."""
    chunks = [event for event in answer.events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


class Client:
    """One connection to the gateway."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.received = b""
        """What was read and not yet taken by `answer`."""

    @classmethod
    async def connect(cls, port: int, receive_buffer: int = 0) -> Client:
        """`receive_buffer` in bytes makes the kernel take little on behalf of a client that does not read."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def read(self, size: int = 1 << 18) -> bytes:
        """Return what there is; empty at the end. Raises ConnectionResetError."""
        async with asyncio.timeout(PATIENCE):
            data = await self._loop.sock_recv(self._sock, size)
        self.received += data
        return data

    async def until(self, *marks: bytes) -> None:
        """Read until all of `marks` were received."""
        while not all(mark in self.received for mark in marks):
            assert await self.read(), f"the connection ended before {marks}: {self.received[-200:]!r}"

    async def rest(self) -> bytes:
        """Read to the end and take everything. A reset is an end too."""
        parts, self.received = [self.received], b""
        with contextlib.suppress(ConnectionResetError):
            while part := await self.read():
                parts.append(part)
                self.received = b""
        return b"".join(parts)

    async def answer(self) -> Answer:
        """Read one answer and leave what follows it."""
        await self.until(b"\r\n\r\n")
        head = self.received.index(b"\r\n\r\n") + 4
        lines = self.received[:head].lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in lines:
            await self.until(b"\r\n0\r\n\r\n")
            end = self.received.index(b"\r\n0\r\n\r\n") + 7
        else:
            [length] = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
            end = head + length
            while len(self.received) < end:
                assert await self.read(), "the connection ended within an answer"
        data, self.received = self.received[:end], self.received[end:]
        return Answer.read(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._sock.shutdown(socket.SHUT_WR)

    def leave(self, how: str = "FIN") -> None:
        """Close the connection with a `FIN` or a `RST`. May be called again."""
        if self._sock.fileno() < 0:
            return
        if how == "RST":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        else:
            # With something left unread a plain close would send a RST.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()


@contextlib.asynccontextmanager
async def client(port: int, receive_buffer: int = 0) -> AsyncIterator[Client]:
    """Yield a connection for one block."""
    made = await Client.connect(port, receive_buffer)
    try:
        yield made
    finally:
        made.leave()


async def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Look until `holds()`."""
    deadline = asyncio.get_running_loop().time() + patience
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, f"still not so after {patience:g} s: {what}"
        await asyncio.sleep(0.001)


def at_rest(served: Served) -> bool:
    """No request is anywhere in the gateway, and nothing is held for one."""
    gateway = served.gateway
    backends = gateway.pool.backends.values()
    return (
        not served.server.server_state.tasks
        and not gateway.core.register.running
        and not any(cell.value for cell in gateway.metrics.queues.waiting.cells.values())
        and not any(cell.value for cell in gateway.metrics.requests.in_flight.cells.values())
        and gateway.core.dispatcher.budget.active == 0
        and all(backend.in_flight == 0 for backend in backends)
        and all(r.upstream.open == r.upstream.idle for r in backends if r.upstream is not None)
    )


async def rest(served: Served) -> None:
    """Wait until everything that requests held is given back."""
    await until(lambda: at_rest(served), "everything is given back")


async def settled(served: Served, *engines: FakeEngine) -> None:
    """Check what holds after every fault: alive, nothing held, nothing left running, and the next request works."""
    await rest(served)
    for engine in engines:
        await until(lambda: engine.journal.totals.running == 0, "the engine rests")  # noqa: B023 (it is awaited)
    assert (await served.get("/healthz")).status == 200
    if engines:
        answer = await served.post(CHAT, chat("still here?"))
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["message"]["content"]
        await rest(served)

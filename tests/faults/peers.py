"""Servers that do what no script of the fake engine can: below HTTP, or in the middle of reading a request."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

HOST = "127.0.0.1"
PAUSE = 1.0
"""Seconds until an engine that does not read gives up."""
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full: further ones get no answer at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
        yield port


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


class Early(asyncio.Protocol):
    """Answers probes; of a longer request it reads only the beginning, and answers `early` if that is not empty."""

    def __init__(self, early: bytes) -> None:
        self._early = early

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not data.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS))
            return
        if self._transport.is_reading():
            self._transport.pause_reading()
            self._transport.write(self._early)
            asyncio.get_running_loop().call_later(PAUSE, self.end)

    def end(self) -> None:
        """Close the connection, whatever is still to be read."""
        self._transport.abort()


@contextlib.asynccontextmanager
async def reading_little(early: bytes = b"") -> AsyncIterator[int]:
    """An engine that does not read requests to their end."""
    made: list[Early] = []

    def protocol() -> Early:
        made.append(Early(early))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(protocol, HOST, 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        for each in made:
            each.end()
        server.close()


@contextlib.asynccontextmanager
async def self_signed(folder: Path) -> AsyncIterator[int]:
    """A TLS server with a certificate that nobody vouches for."""
    program = shutil.which("openssl")
    assert program is not None
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost", "-days", "1"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, HOST, 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()

"""Servers that do what no script of the fake engine can: below HTTP, or in the middle of reading a request."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

HOST = "127.0.0.1"
PAUSE = 1.0
"""Seconds until an engine that does not read gives up."""
COMPLETION = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"secret"},"finish_reason":"stop"}]}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(COMPLETION)
    + COMPLETION
)
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port whose queue of connections is full: further ones get no answer at all."""
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
    """Yield a port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


class Early(asyncio.Protocol):
    """Answers probes; of a longer request it reads only the beginning, and answers `early` if that is not empty."""

    def __init__(self, early: bytes) -> None:
        self._early = early
        self._transport: asyncio.Transport | None = None
        self.asked = b""
        """The first bytes that came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self.asked = self.asked or data
        if not data.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS))
            return
        if self._transport.is_reading():
            self._transport.pause_reading()
            self._transport.write(self._early)
            asyncio.get_running_loop().call_later(PAUSE, self.end)

    def end(self) -> None:
        """Close the connection, whatever is still to be read."""
        if self._transport is not None:
            self._transport.abort()


@contextlib.asynccontextmanager
async def reading_little(early: bytes = b"") -> AsyncIterator[int]:
    """Yield an engine that does not read requests to their end."""
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
async def scripted(answer: Callable[[int, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Yield the URL of an engine that answers probes; `answer` writes what follows the n-th other request."""
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None] | None] = set()
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        writers.add(writer)
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                lengths = [
                    int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
                ]
                await reader.readexactly(sum(lengths))
                if head.startswith(b"get"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS))
                    continue
                count += 1
                await answer(count, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for task in filter(None, tasks):
            task.cancel()
            await asyncio.wait([task])


AUTHORITY = """
[ca]
default_ca = made
[made]
dir = {folder}
database = {folder}/index
new_certs_dir = {folder}
certificate = {folder}/authority.pem
private_key = {folder}/authority.key
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
basicConstraints = critical,CA:false
authorityKeyIdentifier = keyid
"""
"""The config of `openssl ca`. From Python 3.13 on, certificates must have all that RFC 5280 asks for."""


def _openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    assert program is not None
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=30)


def certificate(folder: Path, name: str, *, expired: bool = False) -> tuple[Path, Path, Path]:
    """Return a certificate for the host or address `name`, its key, and the authority that vouches for it."""
    made, key, request = folder / "made.pem", folder / "made.key", folder / "made.csr"
    authority, its_key, config = folder / "authority.pem", folder / "authority.key", folder / "authority.cnf"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        *(
            "req",
            "-x509",
            *curve,
            "-keyout",
            its_key,
            "-out",
            authority,
            "-subj",
            "/CN=authority",
            "-days",
            "2",
        ),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    kind = "IP" if name[0].isdigit() else "DNS"
    alternative = f"subjectAltName={kind}:{name}"
    _openssl(
        "req", "-new", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", alternative
    )
    config.write_text(AUTHORITY.format(folder=folder))
    (folder / "index").touch()
    times = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z") if expired else ("-days", "1")
    _openssl("ca", "-batch", "-notext", "-config", config, "-in", request, "-out", made, *times)
    return made, key, authority


@contextlib.asynccontextmanager
async def speaking_tls(made: Path, key: Path) -> AsyncIterator[tuple[int, list[Early]]]:
    """Yield an engine behind TLS with this certificate: its port, and its connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    came: list[Early] = []

    def protocol() -> Early:
        came.append(Early(ANSWER))
        return came[-1]

    server = await asyncio.get_running_loop().create_server(protocol, HOST, 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1]), came
    finally:
        for each in came:
            each.end()
        server.close()

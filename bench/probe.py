"""Ask single questions over HTTP: is a program ready, what does it count. Not for load.

Rules:
- Each question has a connection of its own, on loopback, with a time limit.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

from bench.load import Question


async def ask(port: int, data: bytes, timeout: float = 10.0) -> tuple[int, bytes]:
    """Send one whole request that asks for `connection: close`; return status and raw body. Raises OSError."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await _body(reader, head.lower())
            finally:
                writer.close()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ConnectionError(f"no HTTP answer from port {port}: {error}") from error
    return int(head.split(b" ", 2)[1]), body


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """Read a body by its length if the head has one: a server may keep the connection open all the same."""
    _, found, rest = head.partition(b"content-length:")
    if found:
        return await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    return await reader.read()


async def get(port: int, path: str) -> bytes:
    """Return the body of a GET. Raises OSError, also for a status other than 200."""
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    status, body = await ask(port, request.encode())
    if status != 200:
        raise ConnectionError(f"{path} on port {port} answers {status}")
    return body


def total(page: str, metric: str) -> float:
    """Add up a metric's samples on a metrics page, whatever their labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in _samples(page, metric))


def by_label(page: str, metric: str, label: str) -> dict[str, float]:
    """Add up a metric's samples on a metrics page for each value of one label."""
    found: dict[str, float] = {}
    for line in _samples(page, metric):
        if value := re.search(rf'[{{,]{label}="([^"]*)"', line):
            found[value[1]] = found.get(value[1], 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def _samples(page: str, metric: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith((f"{metric}{{", f"{metric} "))]


async def answers(question: Question) -> int:
    """Return the status of the answer to `question`; 0 for no answer."""
    data = question.data.replace(b"\r\nhost:", b"\r\nconnection: close\r\nhost:", 1)
    try:
        return (await ask(question.port, data))[0]
    except OSError:
        return 0


async def counts(port: int) -> dict[str, Any]:
    """Return the upstream's own counts."""
    found: dict[str, Any] = json.loads(await get(port, "/counts"))
    return found


async def until_up(port: int, timeout: float = 20.0) -> None:
    """Wait until the upstream answers. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            try:
                await counts(port)
                return
            except OSError:
                await asyncio.sleep(0.05)


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

"""The bytes of HTTP/1.1 answers, and what can be known of a connection that is not read. Pure but for that look.

Rules:
- Nothing here checks what it writes: names and values come from the gateway or were read by a strict parser.
"""

from __future__ import annotations

import asyncio
import http
import socket
from typing import Final

from backends.base import Headers

CLOSE: Final = b"connection: close\r\n\r\n"
"""The end of a head after which the connection is closed."""
LAST_CHUNK: Final = b"0\r\n\r\n"
_ESTABLISHED: Final = b"\x01"
"""The state of a TCP connection that neither side has ended."""


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = {status: _status_line(status) for status in range(200, 600)}


def head(status: int, date_line: bytes, headers: Headers, framing: bytes) -> bytes:
    """Return the head of an answer but for its last lines. `date_line` and `framing` are whole header lines."""
    parts = [STATUS_LINES[status], date_line]
    for name, value in headers:
        parts.append(name)
        parts.append(b": ")
        parts.append(value)
        parts.append(b"\r\n")
    parts.append(framing)
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """Return data, which is not empty, as one chunk of the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def has_left(transport: asyncio.Transport) -> bool:
    """Tell whether the other side has closed its connection, or half of it, though nothing is read from it. False where
    the system cannot tell (only Linux can)."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    connection = transport.get_extra_info("socket")
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return True
    return bool(state != _ESTABLISHED)

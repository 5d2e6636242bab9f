"""Format HTTP/1.1 answers, and check whether the peer of a connection has left although nothing is read from it.

Rules:
- Names and values are not validated here: they come from the gateway itself or from a strict parser.
- All functions are pure except `has_left`, which asks the operating system.
"""

from __future__ import annotations

import asyncio
import http
import socket
from typing import Final

from backends.base import Headers

CLOSE: Final = b"connection: close\r\n\r\n"
"""The last lines of an answer's head after which the connection is closed."""
LAST_CHUNK: Final = b"0\r\n\r\n"
_ESTABLISHED: Final = b"\x01"
"""The first byte of Linux' `tcp_info` for a connection that neither side has closed (TCP_ESTABLISHED)."""


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = {status: _status_line(status) for status in (101, *range(200, 600))}


def head(status: int, date_line: bytes, headers: Headers, framing: bytes) -> bytes:
    """Return the head of an answer without its last lines. `date_line` and `framing` are complete header lines."""
    parts = [STATUS_LINES[status], date_line]
    for name, value in headers:
        parts.append(name)
        parts.append(b": ")
        parts.append(value)
        parts.append(b"\r\n")
    parts.append(framing)
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """Return `data`, which must not be empty, as one chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of the machine at the other end; empty where it is not known."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""


def has_left(transport: asyncio.Transport) -> bool:
    """Tell whether the peer has closed or half-closed the connection, without reading from it.

    Only Linux can tell; elsewhere the result is False.
    """
    if not hasattr(socket, "TCP_INFO"):
        return False
    connection = transport.get_extra_info("socket")
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return True
    return bool(state != _ESTABLISHED)

"""The engine's side of a recorded WebSocket: it says what it said, and hears nothing else than what it heard.

Rules:
- A message that is not the recorded one, and one that comes where none was recorded, is noted and ends the WebSocket.
- Frames are read as RFC 6455 has them: a client's are masked, and its pings are answered.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from hashlib import sha1
from typing import Any

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


def opening(key: bytes) -> list[bytes]:
    """Return the headers that accept a handshake with this key."""
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return [b"upgrade: websocket", b"connection: Upgrade", b"sec-websocket-accept: " + accept]


class Conversation:
    """One WebSocket, from its handshake to its end."""

    def __init__(
        self, script: list[tuple[bool, Any]], transport: asyncio.Transport, unmatched: list[str]
    ) -> None:
        """Say and hear what is in `script`: messages, each with whether it is the client's."""
        self._script = script
        self._transport = transport
        self._unmatched = unmatched
        self._buffer = b""
        self._say()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the client."""
        self._buffer += data
        while (frame := _frame(self._buffer)) is not None:
            kind, payload, size = frame
            self._buffer = self._buffer[size:]
            self._take(kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _CLOSE:
            if self._script:
                self._unmatched.append(f"the client left before {self._script[0]}")
            self._write(_CLOSE, payload)
            self._transport.close()
        elif kind == _PING:
            self._write(_PONG, payload)
        elif kind == _TEXT:
            wanted = self._script.pop(0)[1] if self._script else None
            if wanted is None or json.loads(payload) != wanted:
                self._unmatched.append(f"the client said {payload[:500]!r}, not {wanted}")
                self._transport.close()
            self._say()

    def _say(self) -> None:
        """Send what comes next, up to a message of the client."""
        while self._script and not self._script[0][0]:
            self._write(_TEXT, json.dumps(self._script.pop(0)[1]).encode())

    def _write(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        self._transport.write(bytes([0x80 | kind]) + length + payload)


def _frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Return the kind of the first frame, its payload and its size; None while it is not whole."""
    if len(data) < 2:
        return None
    size, at = data[1] & 127, 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
    mask, end = data[at : at + 4], at + 4 + size
    if len(data) < end or len(mask) < 4:
        return None
    payload = bytes(byte ^ mask[place & 3] for place, byte in enumerate(data[at + 4 : end]))
    return data[0] & 15, payload, end

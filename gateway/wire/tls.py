"""TLS for a client's connection, once keys are agreed on: the transport of the protocol behind it.

Rules:
- The protocol behind, the front door, notices nothing of it.
- An answer that is complete is followed by TLS' own end mark (`close_notify`), one that broke off is not: so the client
  can see that something is missing, also where nothing else tells.
- What is to be written at once is encrypted at once. A large piece is encrypted as the socket takes it, a part in each
  turn of the loop, so that others are not held up.
- As of a transport without TLS, everything that has been written is sent before `close` closes, and nothing after
  `abort`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

OPEN: Final = 0
"""The protocol behind reads and writes."""
ENDED: Final = 1
"""Nothing more is written. What comes is not decrypted, only passed on, to be counted."""
GONE: Final = 2
"""The connection is closed."""

RECORD: Final = 16 << 10
"""Most bytes of content in one record of TLS."""
PIECE: Final = 64 << 10
"""Most bytes that are encrypted at once."""
AHEAD: Final = 256 << 10
"""Bytes that wait for the socket, beyond which nothing more is encrypted."""


class Tls:
    """One client connection with TLS."""

    __slots__ = (
        "_backlog",
        "_closing",
        "_full",
        "_incoming",
        "_inner",
        "_loop",
        "_outgoing",
        "_phase",
        "_pumping",
        "_receive",
        "_served",
        "_size",
        "_then",
        "_tls",
        "_told",
        "cut",
        "transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        served: ssl.SSLContext,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Carry a connection whose handshake `tls` has made, with what came by `incoming` and goes by `outgoing`."""
        self.transport: asyncio.Transport = transport
        self._served: ssl.SSLContext = served
        self._tls: ssl.SSLObject = tls
        self._incoming: ssl.MemoryBIO = incoming
        self._outgoing: ssl.MemoryBIO = outgoing
        self._loop: asyncio.AbstractEventLoop = loop
        self._phase: int = OPEN
        self._inner: Any = None
        self._receive: Callable[[bytes], None]
        self._backlog: deque[Any] = deque()
        """What has been written and is not encrypted yet."""
        self._size: int = 0
        """Bytes of the backlog."""
        self._pumping: bool = False
        self._full: bool = False
        """Whether the socket's transport wants nothing more for now."""
        self._told: bool = False
        """Whether the protocol behind has been told so."""
        self._closing: bool = False
        self._then: Callable[[], None] | None = None
        """What is to be done once the backlog is empty."""
        self.cut: bool = False
        """Whether what was written last is incomplete, so that no end mark may follow it."""

    def begin(self, inner: Any) -> None:
        """Have this protocol be the one behind, and pass on what has come with the end of the handshake."""
        self.set_protocol(inner)
        inner.connection_made(self)
        if self._phase == OPEN and self._incoming.pending:
            self._read()

    # asyncio.Protocol, towards the socket

    def data_received(self, data: bytes) -> None:
        if self._phase == OPEN:
            self._incoming.write(data)
            self._read()
        elif self._phase == ENDED:
            self._receive(data)

    def eof_received(self) -> bool:
        """Let the protocol behind decide. What it has written is sent before the connection is closed."""
        if not self._inner.eof_received():
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = GONE
        self._closing = True
        self._drop()
        inner, self._inner = self._inner, None
        inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        self._tell()

    def resume_writing(self) -> None:
        self._full = False
        if self._backlog:
            self._pump()
        self._tell()

    # reading

    def _read(self) -> None:
        """Decrypt what has come, and pass it on in one piece: what a client sends at once may be several records."""
        tls = self._tls
        incoming = self._incoming
        pieces: list[bytes] = []
        ended = failed = False
        try:
            while True:
                piece = tls.read(RECORD)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
                if not incoming.pending and not tls.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except (OSError, ValueError):
            failed = True
        self._flush()
        if pieces:
            self._receive(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._phase != OPEN:
            return
        if failed:
            self._drop()
            self._closing = True
            self.transport.close()
        elif ended and not self._inner.eof_received():
            self.close()

    # asyncio.Transport, towards the protocol behind

    def write(self, data: bytes) -> None:
        """Send data."""
        if self._closing or self._phase != OPEN:
            return
        if self._backlog or len(data) > PIECE:
            self._backlog.append(data)
            self._size += len(data)
            if not self._pumping:
                self._pump()
            self._tell()
            return
        self._encrypt(data)

    def _encrypt(self, data: Any) -> None:
        tls = self._tls
        try:
            tls.write(data)
        except (OSError, ValueError):
            self.abort()
            return
        self.transport.write(self._outgoing.read())

    def _pump(self) -> None:
        """Encrypt some of the backlog, as much as the socket's transport takes without holding more than `AHEAD`."""
        self._pumping = False
        room = AHEAD
        while self._backlog and room > 0 and not self._full and self._phase == OPEN:
            data = self._backlog.popleft()
            if len(data) > PIECE:
                view = memoryview(data)
                self._backlog.appendleft(view[PIECE:])
                data = view[:PIECE]
            self._size -= len(data)
            room -= len(data)
            self._encrypt(data)
        if self._backlog:
            if not self._full and self._phase == OPEN:
                self._pumping = True
                self._loop.call_soon(self._go_on)
        elif self._then is not None:
            then, self._then = self._then, None
            then()

    def _go_on(self) -> None:
        if self._pumping:
            self._pump()
            self._tell()

    def _tell(self) -> None:
        """Tell the protocol behind whether it may write, if that is new."""
        full = self._full or bool(self._backlog)
        inner = self._inner
        if full == self._told or inner is None:
            return
        self._told = full
        if full:
            inner.pause_writing()
        else:
            inner.resume_writing()

    def write_eof(self) -> None:
        """Say that nothing more will be written. What still comes is passed on as it is, to be counted and dropped."""
        self._after_backlog(self._end)

    def close(self) -> None:
        """Close the connection after everything that was written."""
        if not self._closing:
            self._closing = True
            self._after_backlog(self._close)

    def abort(self) -> None:
        """Close the connection at once, without TLS' end mark."""
        self._closing = True
        self._drop()
        self.transport.abort()

    def is_closing(self) -> bool:
        """Tell whether the connection is closed, or will be after what was written."""
        return self._closing or self.transport.is_closing()

    def _after_backlog(self, then: Callable[[], None]) -> None:
        self._then = then
        if not self._backlog:
            self._pump()

    def _end(self) -> None:
        self._say_end()
        if self._phase == OPEN:
            self._phase = ENDED
        if not self.transport.is_closing():
            self.transport.write_eof()

    def _close(self) -> None:
        self._say_end()
        self.transport.close()

    def _say_end(self) -> None:
        if self.cut or self._phase != OPEN:
            return
        try:
            self._tls.unwrap()
        except (OSError, ValueError):  # the client's own end mark, which `unwrap` waits for, is not needed
            pass
        self._flush()

    def _drop(self) -> None:
        """Forget what has not been encrypted."""
        self._backlog.clear()
        self._size = 0
        self._pumping = False
        self._then = None

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    def set_protocol(self, protocol: Any) -> None:
        """Pass what comes to this protocol from now on."""
        self._inner = protocol
        self._receive = protocol.data_received

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection, by the names that asyncio has for it."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._served
        return self.transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the socket."""
        return self._size + self.transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read nothing more for now. What has come is with the protocol already."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self.transport.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether the socket is read."""
        return self.transport.is_reading()


def truncate(transport: object) -> None:
    """Have a connection end as one whose last answer is incomplete, if its transport can show that."""
    if isinstance(transport, Tls):
        transport.cut = True

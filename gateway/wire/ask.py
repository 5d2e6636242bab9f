"""One small request to a backend on a connection of its own, for probes and not for clients' requests.

Rules:
- One time limit covers the whole exchange, and one size limit the answer. The connection is always closed afterwards.
- A metrics page may be large, and little of it is wanted. It is sifted as it arrives: each read takes its own share of
  the work, and no read keeps the loop for long.
- Errors are returned as a `Failure`. Only cancellation is raised.
"""

from __future__ import annotations

import asyncio

from backends.base import Call, Failure, Headers, Kind, Phase
from backends.framing.prometheus import Sieve
from gateway.wire.connection import Connection, Sink
from gateway.wire.upstream import ConnectError, Upstream


class _Collect(Sink):
    """A sink that collects one small answer and sets a future when it is complete or lost."""

    def __init__(self, done: asyncio.Future[Failure | None], limit: int, sieve: Sieve | None) -> None:
        self.status = 0
        self.done = done
        self._limit = limit
        self._sieve = sieve
        self._parts: list[bytes] = []
        self._size = 0

    def on_sent(self) -> None:
        pass

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._sieve is None:
            self._parts.append(data)
        else:
            self._sieve.feed(data)
        if self._size > self._limit or (self._sieve is not None and self._sieve.too_long):
            self._parts.clear()
            self.on_lost(Failure(Kind.GARBLED, "the engine's answer is too large"))

    def body(self) -> bytes:
        """Return the answer, or what a sieve kept of it."""
        return b"".join(self._parts) if self._sieve is None else self._sieve.close()

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def on_lost(self, failure: Failure) -> None:
        if not self.done.done():
            self.done.set_result(failure)


async def ask(
    upstream: Upstream, call: Call, timeout: float, limit: int = 1 << 20, sieve: Sieve | None = None
) -> tuple[int, bytes] | Failure:
    """Send `call` and return the status and body of the answer, or the failure if there is none.

    `timeout` in seconds covers everything from connecting on; `limit` is the most bytes of a body, of
    which `sieve` keeps the wanted lines.
    """
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            connection = await upstream.connect(timeout)
            sink = _Collect(asyncio.get_running_loop().create_future(), limit, sieve)
            connection.send(upstream.encode(call, b"connection: close\r\n"), sink)
            failure = await sink.done
    except ConnectError as error:
        return error.failure
    except TimeoutError:
        return Failure(Kind.TIMEOUT, "the engine did not answer in time", phase=Phase.FIRST_BYTE)
    finally:
        if connection is not None:
            connection.close()
    return failure or (sink.status, sink.body())

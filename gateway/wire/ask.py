"""One small exchange with a backend, on a connection of its own: for probes, not for requests.

Rules:
- It has one time limit for everything and one size limit, and leaves no connection behind.
- It raises nothing but cancellation; what goes wrong is a `Failure`.
"""

from __future__ import annotations

import asyncio

from backends.base import Call, Failure, Headers, Kind, Phase
from gateway.wire.connection import Connection, Sink
from gateway.wire.upstream import ConnectError, Upstream


class _Collect(Sink):
    """A sink that waits for one small answer."""

    def __init__(self, done: asyncio.Future[Failure | None], limit: int) -> None:
        self.status = 0
        self.body = b""
        self.done = done
        self._limit = limit

    def on_sent(self) -> None:
        pass

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > self._limit:
            self.on_lost(Failure(Kind.GARBLED, "the engine's answer is too large"))

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def on_lost(self, failure: Failure) -> None:
        if not self.done.done():
            self.done.set_result(failure)


async def ask(
    upstream: Upstream, call: Call, timeout: float, limit: int = 1 << 20
) -> tuple[int, bytes] | Failure:
    """The status and body of the answer, or why there is none. `timeout` in seconds is for all of it, `limit` in bytes
    for the body."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            connection = await upstream.connect(timeout)
            sink = _Collect(asyncio.get_running_loop().create_future(), limit)
            connection.send(upstream.encode(call, b"connection: close\r\n"), sink)
            failure = await sink.done
    except ConnectError as error:
        return error.failure
    except TimeoutError:
        return Failure(Kind.TIMEOUT, "the engine did not answer in time", phase=Phase.FIRST_BYTE)
    finally:
        if connection is not None:
            connection.close()
    return failure or (sink.status, sink.body)

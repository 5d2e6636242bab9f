"""One small request to a backend on a connection of its own, for probes and not for clients' requests.

Rules:
- One time limit covers the whole exchange, and one size limit the answer. The connection is always closed afterwards.
- Errors are returned as a `Failure`. Only cancellation is raised.
"""

from __future__ import annotations

import asyncio

from backends.base import Call, Failure, Headers, Kind, Phase
from gateway.wire.connection import Connection, Sink
from gateway.wire.upstream import ConnectError, Upstream


class _Collect(Sink):
    """A sink that collects one small answer and sets a future when it is complete or lost."""

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
    """Send `call` and return the status and body of the answer, or the failure if there is none.

    `timeout` in seconds covers everything from connecting on; `limit` is the most bytes of a body.
    """
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

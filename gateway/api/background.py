"""Responses in the background: begun, looked at, followed and cancelled, in whichever process of the gateway.

Rules:
- One is made by the process that was asked for it, like any other request of its key: the same routes, classes, limits
  and metrics. Its client may leave. Of the two requests that this takes here, only the one that is made is counted.
- The store knows it from its beginning to its end, so every process can tell about it and cancel it. Who makes it hears
  of that within `TICK`, and the engine's request ends.
- One whose process is gone has failed: it is not made a second time, as nobody knows what its tools have done.
- How it has ended is decided once, in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from time import perf_counter_ns
from types import ModuleType
from typing import TYPE_CHECKING, Final

import msgspec

from backends.surfaces.responses import background as said
from backends.surfaces.responses import kept as kept_said
from gateway.api.background_run import CANCELLED, Run
from gateway.api.endpoint import Core, Endpoint
from gateway.api.kept import CLEANING, KeptResponses
from gateway.asked import PATIENCE
from gateway.errors import GatewayError, Own
from gateway.request import Exchange
from gateway.store.failure import StoreError
from gateway.store.process import this_process

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.store.background import Row
    from gateway.store.store import Store

log = logging.getLogger("gateway.store")

TICK: Final = 0.25
"""Seconds between two looks at what was cancelled; as often, events are handed to the store."""
LEASE: Final = 20
"""Seconds for which a process that says nothing is still taken to be there."""
RENEWAL: Final = 5.0
"""Seconds between two times that it says so."""
EVENTS: Final = 3600
"""Seconds for which the events of a stream that has ended may be asked for."""
LOST: Final = "the gateway stopped while it made this response"
_QUERIES: Final = "gateway.store.background"


class Background:
    """All of them, for one process."""

    def __init__(self, core: Core, kept: KeptResponses, store: Store, age: Callable[[], int]) -> None:
        """Keep them in a store, for `age` seconds once they have ended, and in `kept` those that ended well."""
        self._core = core
        self._kept = kept
        self._store = store
        self._age = age
        self._queries: ModuleType = importlib.import_module(_QUERIES)
        self._me = this_process()
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewed = self._cleaned = 0.0
        self._writing = asyncio.Lock()
        """Held while something of a run is written, so that nothing of it is written twice."""

    # making

    async def begin(self, endpoint: Endpoint, exchange: Exchange, wish: kept_said.Wish) -> Run:
        """Have the response to a client's request be made, and return it. Raises GatewayError and StoreError."""
        request, owner = exchange.request, exchange.caller.name
        self._check(exchange)
        begun = said.queued(request)
        run = Run(owner, begun, request.stream)
        items = await asyncio.to_thread(kept_said.input_items, bytes(wish.input))
        now, most = int(time.time()), self._core.snapshot.config.server.limits.background
        # `input_items` is read by whoever lists them while the response is made.
        row = self._queries.Row(
            *(run.name, said.QUEUED, request.stream, now + LEASE, self._me),
            *(wish.previous, items, msgspec.json.encode(begun)),
        )
        if not await self._store.write(
            lambda connection: self._queries.begin(connection, owner, row, most, now)
        ):
            message = f"this key has {most} responses in the background: wait until one has ended"
            raise GatewayError(
                Own.QUEUE_FULL, message, code="too_many_background_responses", status=429, param="background"
            )
        self._runs[owner, run.name] = run
        task = asyncio.get_running_loop().create_task(self._make(run, endpoint, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def _check(self, exchange: Exchange) -> None:
        """Refuse at once a model that this key has not. Raises GatewayError."""
        core = self._core
        try:
            core.snapshot.router.named(exchange.asked)
        except GatewayError as error:
            may_be = core.may_appear(exchange.request.model, exchange.caller)
            stands_in = core.snapshot.config.defaults.unknown_model is not None
            if error.kind is not Own.UNKNOWN_MODEL or not (may_be or stands_in):
                raise

    async def _make(self, run: Run, endpoint: Endpoint, client: Exchange) -> None:
        """Have a response be answered like any other request, and note how it ends."""
        way = run.way(asyncio.get_running_loop())
        exchange = endpoint.open(way, client.headers, perf_counter_ns())
        exchange.id = client.id
        # Nobody waits for it, whatever the client's library says of its own patience.
        exchange.headers = {name: value for name, value in client.headers.items() if name not in PATIENCE}
        run.exchange = exchange
        try:
            endpoint.take_for(exchange, client.caller)
            body = said.foreground(client.request.body)
        except GatewayError as error:
            exchange.end(error)
        else:
            endpoint.accept(exchange, body)
            if run.is_cancelled:  # before there was a request
                run.interrupt(GatewayError(Own.CANCELLED, CANCELLED))
        try:
            await exchange.ended()
            await self._end(run)
        finally:
            run.over()
            del self._runs[run.owner, run.name]

    async def _end(self, run: Run) -> None:
        """Note how a response has ended, and keep one that has ended well."""
        response = run.conclude()
        body, turn, status = msgspec.json.encode(response), run.turn, response["status"]
        now = int(time.time())
        save = None if turn is None else self._kept.saving(turn, run.name, body)

        async with self._writing:
            first, events = run.unstored()

            def work(connection: Connection) -> None:
                if save is None or status in (said.FAILED, said.CANCELLED):
                    self._queries.end(connection, run.owner, run.name, status, body, now)
                elif self._queries.leave(connection, run.owner, run.name):
                    save(connection)
                if events:
                    self._queries.add_events(connection, run.owner, run.name, first, events, now)

            try:
                await self._store.write(work)
            except StoreError as error:
                log.warning("a response in the background is lost: %s", error.reason)

    # looking

    async def find(self, owner: str, name: str) -> Row | None:
        """Return a response as it is now; None where there is none of this id in the background. Raises StoreError."""
        row: Row | None = await self._store.read(
            lambda connection: self._queries.find(connection, owner, name)
        )
        if row is None:
            return None
        run = self._runs.get((owner, name))
        if run is not None and row.status in said.OPEN:
            return row._replace(response=msgspec.json.encode(run.response))
        if row.is_lost(now := int(time.time())):
            failed = said.failed(msgspec.json.decode(row.response), LOST)
            body = msgspec.json.encode(failed)
            await self._store.write(
                lambda connection: self._queries.end(connection, owner, name, said.FAILED, body, now)
            )
            row = row._replace(status=said.FAILED, response=body)
        return row

    async def delete(self, owner: str, name: str) -> bool:
        """Cancel a response and forget it. Return False where there is none of this id. Raises StoreError."""
        found: bool = await self._store.write(
            lambda connection: self._queries.remove(connection, owner, name)
        )
        self._stop(owner, name)
        return found

    async def cancel(self, owner: str, name: str) -> bytes:
        """Cancel a response, unless it has ended; return it. Raises GatewayError and StoreError."""
        row = await self.find(owner, name)
        if row is not None and row.status in said.OPEN:
            body = msgspec.json.encode(said.cancelled(msgspec.json.decode(row.response)))
            await self._store.write(
                lambda connection: self._queries.end(
                    connection, owner, name, said.CANCELLED, body, int(time.time())
                )
            )
            self._stop(owner, name)
            row = await self.find(owner, name)
        response = row.response if row is not None else (await self._kept.find(owner, name)).response
        if msgspec.json.decode(response).get("background") is not True:
            raise GatewayError(Own.INVALID, "Cannot cancel a synchronous response.")
        return response

    def _stop(self, owner: str, name: str) -> None:
        run = self._runs.get((owner, name))
        if run is not None:
            run.cancel()

    async def stream(self, owner: str, name: str, after: int) -> AsyncIterator[bytes]:
        """Return the events behind number `after`, those that come too. Raises GatewayError and StoreError."""
        run = self._runs.get((owner, name))
        if run is not None and run.is_stream:
            return run.follow(after + 1)
        row = await self.find(owner, name)
        first = await self._store.read(lambda connection: self._queries.events(connection, owner, name, 0))
        if row is None and not first:
            await self._kept.find(owner, name)  # which says that there is none
        if not first and not (row is not None and row.streamed):
            message = (
                "only a response made in the background as a stream has events, until an hour after its end"
            )
            raise GatewayError(Own.INVALID, message, param="stream")
        return self._stored(owner, name, after + 1)

    async def _stored(self, owner: str, name: str, position: int) -> AsyncIterator[bytes]:
        """Yield the events from a number on that another process makes, or has made."""
        while True:
            row = await self.find(owner, name)
            at = position
            pieces = await self._store.read(partial(self._queries.events, owner=owner, name=name, first=at))
            for first, data in pieces:
                for number, event in enumerate(data.split(b"\n\n")[:-1], first):
                    if number >= position:
                        yield event + b"\n\n"
                        position = number + 1
            if position == at:
                if row is None or row.status not in said.OPEN:
                    return
                await asyncio.sleep(TICK)

    # keeping

    async def run(self) -> None:
        """Do what is due now and then, until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            with contextlib.suppress(StoreError):  # which the store has logged
                if self._runs:
                    await self._tick()
                if time.monotonic() > self._cleaned + CLEANING:
                    self._cleaned = time.monotonic()
                    await self._clean()

    async def _tick(self) -> None:
        """Hand over what is new, say that this process is there, and stop what was cancelled elsewhere."""
        is_due = time.monotonic() > self._renewed + RENEWAL
        async with self._writing:
            runs = [run for run in self._runs.values() if not run.is_over]
            begun = [run for run in runs if run.begins()]
            news = [(run, *run.unstored()) for run in runs]
            if begun or is_due or any(events for _, _, events in news):
                await self._store.write(partial(self._hand_over, begun, news, int(time.time())))
                self._renewed = time.monotonic()
                for run, first, events in news:
                    run.stored = first + len(events)
        looked_at = list(self._runs)
        known = await self._store.read(lambda connection: self._queries.open_of(connection, self._me))
        for key in looked_at:
            if key not in known:
                self._stop(*key)

    def _hand_over(
        self, begun: list[Run], news: list[tuple[Run, int, list[bytes]]], now: int, connection: Connection
    ) -> None:
        for run in begun:
            self._queries.start(connection, run.owner, run.name, msgspec.json.encode(run.response))
        for run, first, events in news:
            if events:
                self._queries.add_events(connection, run.owner, run.name, first, events, now)
        self._queries.renew(connection, self._me, now + LEASE)

    async def _clean(self) -> None:
        now = int(time.time())
        await self._store.write(
            lambda connection: self._queries.clean(connection, now - self._age(), now - EVENTS)
        )

    async def close(self) -> None:
        """Stop what is still being made, and wait until all has been noted."""
        for run in self._runs.values():
            run.interrupt(GatewayError(Own.DRAINING, LOST))
        while self._tasks:
            await asyncio.wait(list(self._tasks))

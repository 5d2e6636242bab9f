"""The fake engine: listen, choose how each request is answered, assign slots, obey the control path.

Rules:
- A new script applies to requests that come from then on; answers under way continue as they began.
- `/_fake/...` is the control path: never scripted, never counted, answered even while the model loads.
- The answer to requests of one shape is prepared once and reused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import chain, islice
from types import TracebackType
from typing import Any

from gateway.fake import answers
from gateway.fake.answers import Asked, understand
from gateway.fake.connection import Connection, Request
from gateway.fake.journal import Exchange, Journal
from gateway.fake.listener import Listener
from gateway.fake.plan import Fixed, on_accept, plan
from gateway.fake.reading import ScriptError, read
from gateway.fake.rules import Rules
from gateway.fake.script import Behaviour, Script
from gateway.fake.steps import Step

CONTROL = "/_fake/"
Shape = tuple[int | None, bool, str, bytes]
"""Requests with the same shape get the same answer: rule, keep-alive, method and path, body."""
_CACHED_ANSWERS = 64
_CACHED_STEPS = 1024
_CACHED_BODY = 1 << 14
_understood = lru_cache(256)(understand)
_NOTHING = Asked(
    path="", model=None, stream=False, include_usage=False, limit=None, choices=1, prompt="", prompt_tokens=0,
    inputs=(), encoded=False, dimensions=0, id="", fault=None,
)  # fmt: skip
_LOADING = Fixed(503, answers.error("Loading model", "unavailable_error", 503))
_BUSY = Fixed(503, answers.error("the queue of the fake engine is full", "overloaded_error", "queue_full"))


class FakeEngine:
    """A server on a port of its own. `async with FakeEngine(script) as engine`, or `start` and `stop`.

    Instead of a script its fields may be given: `FakeEngine(models=["a"], rules=[...])`.
    """

    def __init__(
        self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, **fields: Any
    ) -> None:
        self.journal = Journal()
        self._listener = Listener(lambda: Connection(self), host, port)
        self._connections: set[Connection] = set()
        self._number = 0
        self._queue: dict[Connection, Callable[[], None]] = {}
        self._lending = False
        self._running: set[Connection] = set()
        self._cache: dict[Shape, tuple[Step, ...]] = {}
        self._task: asyncio.Task[None] | None = None
        self._take(script if script is not None else Script(**fields))

    # Start and stop

    async def __aenter__(self) -> FakeEngine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the port, after the loading time if the script says that loading refuses connections."""
        self._ready = time.monotonic() + self.script.loading
        await self._obey_loading()

    async def stop(self) -> None:
        """Close the port and every connection; return when all are gone."""
        await self._cancel_opening()
        self._listener.close()
        self._crash_all()
        await self.journal.until(lambda: not self._connections, 10)

    async def down(self) -> None:
        """Behave as if the process had died: reset all connections, refuse new ones."""
        await self._cancel_opening()
        await self._shut()
        await self.journal.until(lambda: not self._connections, 10)

    async def up(self) -> None:
        """Accept connections again, on the same port."""
        await self._cancel_opening()
        await self._listener.open()

    # For tests

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return self._listener.url

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def requests(self) -> list[Exchange]:
        """The requests so far, oldest first, without those to `/_fake/...`."""
        return list(self.journal.exchanges)

    def set(self, script: Script | None = None, **fields: Any) -> None:
        """Change the script for requests from now on. The rules' counts and the loading time start again."""
        self._take(script if script is not None else Script(**fields))
        self._lend_slots()
        if self._refuses or self._task is not None:
            self._task = asyncio.get_running_loop().create_task(self._reload(self._task))

    async def until(self, seen: Callable[[], bool], timeout: float = 5) -> None:
        """Return as soon as `seen()` is true; it is called whenever something happens. Raises TimeoutError."""
        await self.journal.until(seen, timeout)

    async def arrived(self, count: int = 1, timeout: float = 5) -> list[Exchange]:
        """Wait until `count` requests were read; return all."""
        await self.until(lambda: self.journal.totals.started >= count, timeout)
        return self.requests

    async def closed(self, count: int = 1, timeout: float = 5) -> list[Exchange]:
        """Wait until clients abandoned `count` requests; return those."""
        await self.until(lambda: self.journal.totals.aborted >= count, timeout)
        return [exchange for exchange in self.requests if exchange.outcome == "aborted"]

    async def finished(self, count: int = 1, timeout: float = 5) -> list[Exchange]:
        """Wait until `count` requests were answered to the end; return those."""
        await self.until(lambda: self.journal.totals.finished >= count, timeout)
        return [exchange for exchange in self.requests if exchange.outcome == "finished"]

    # Called by connections

    def opened(self, connection: Connection) -> Iterator[Step] | None:
        """Register a connection; return the steps that come before any request, if a rule has some."""
        self._number += 1
        connection.number = self._number
        self._connections.add(connection)
        self.journal.totals.open += 1
        self.journal.totals.accepted += 1
        self.journal.changed()
        rule = self._rules.for_connection()
        return on_accept(rule.faults, self.script.seed) if rule else None

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.journal.totals.open -= 1
        self.journal.changed()

    def keeps(self, connection: Connection) -> float | None:
        """Return how many seconds the connection may stay idle; 0: not at all, None: for ever."""
        most = self.script.requests_per_connection
        return 0 if most and connection.answered >= most else self.script.keep_alive

    def left(self, connection: Connection) -> None:
        """Give the slot of a connection whose exchange ended to the next request that waits."""
        self._running.discard(connection)
        self._queue.pop(connection, None)
        self._lend_slots()

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer a request, now or when a slot becomes free."""
        if request.path.startswith(CONTROL):
            self._control(connection, request)
            return
        exchange = self.journal.begin(
            connection.number, request.method, request.path, request.headers, request.body
        )
        connection.exchange = exchange
        if self._loading:
            self._turn_away(connection, _LOADING, Behaviour())
            return
        asked = (_understood if len(request.body) <= _CACHED_BODY else understand)(request.path, request.body)
        exchange.rule = self._rules.for_request(asked, request.headers, request.body)
        generates = request.path in answers.GENERATING and request.method == "POST" and not asked.fault
        begin = self._beginning(connection, exchange, asked, generates)
        if not generates:
            begin()
        elif self._has_slot():
            self._running.add(connection)
            self._count_slots()
            begin()
        elif self.script.queue is None or len(self._queue) < self.script.queue:
            exchange.phase = "queued"
            self._queue[connection] = begin
            self._count_slots()
        else:
            self._turn_away(connection, _BUSY, Behaviour(reply=self.script.busy))

    # Internal

    def _take(self, script: Script) -> None:
        self.script = script
        self._rules = Rules(script)
        self._behaviours: dict[tuple[int | None, bool], Behaviour] = {}
        self._cache.clear()
        self._ready = time.monotonic() + script.loading

    @property
    def _loading(self) -> bool:
        return bool(self.script.loading) and time.monotonic() < self._ready

    @property
    def _refuses(self) -> bool:
        return self._loading and self.script.loading_style == "refuse"

    async def _obey_loading(self) -> None:
        if self._refuses:
            self._task = asyncio.get_running_loop().create_task(self._open_later())
        else:
            await self._listener.open()

    async def _open_later(self) -> None:
        await asyncio.sleep(max(0, self._ready - time.monotonic()))
        await self._listener.open()

    async def _reload(self, before: asyncio.Task[None] | None) -> None:
        """Start loading again under a new script, and cancel any loading that was under way."""
        if before is not None:
            before.cancel()
            await asyncio.wait([before])
        if self._refuses:
            await self._shut()
        await self._open_later()

    async def _shut(self) -> None:
        await self._listener.shut()
        self._crash_all()

    def _crash_all(self) -> None:
        for connection in list(self._connections):
            connection.crash()

    async def _cancel_opening(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _lend_slots(self) -> None:
        """Start waiting requests while slots are free.

        An answer that ends at once calls this again; the outer call goes on.
        """
        if self._lending:
            return
        self._lending = True
        while self._queue and self._has_slot():
            waiting = next(iter(self._queue))
            begin = self._queue.pop(waiting)
            self._running.add(waiting)
            begin()
        self._lending = False
        self._count_slots()

    def _has_slot(self) -> bool:
        return self.script.slots is None or len(self._running) < self.script.slots

    def _count_slots(self) -> None:
        self.journal.totals.running, self.journal.totals.queued = len(self._running), len(self._queue)
        self.journal.changed()

    def _behaviour(self, rule: int | None, generates: bool) -> Behaviour:
        found = self._behaviours.get((rule, generates))
        if found is None:
            chosen = None if rule is None else self.script.rules[rule]
            found = self.script.behaviour(chosen, generates=generates)
            self._behaviours[rule, generates] = found
        return found

    def _beginning(
        self, connection: Connection, exchange: Exchange, asked: Asked, generates: bool
    ) -> Callable[[], None]:
        """Return the function that starts the answer, bound to the script of this moment."""
        script, behaviour = self.script, self._behaviour(exchange.rule, generates)
        fixed = None if generates else _fixed(exchange, asked, script)
        model, keep = asked.model or script.models[0], connection.keep
        key = (exchange.rule, keep, exchange.method + exchange.path, exchange.body)

        def begin() -> None:
            exchange.phase = "waiting"
            make = partial(plan, behaviour, asked, model, fixed, keep=keep, seed=script.seed)
            steps = make() if behaviour.endless else self._prepared(script, key, make)
            connection.play(steps, behaviour.jitter, f"{script.seed} {exchange.number}")

        return begin

    def _prepared(self, script: Script, key: Shape, make: Callable[[], Iterator[Step]]) -> Iterator[Step]:
        """Return the steps of an answer; keep them for the next request of this shape if there are not too many."""
        if script is not self.script or len(key[-1]) > _CACHED_BODY:
            return make()
        kept = self._cache.get(key)
        if kept is not None:
            return iter(kept)
        steps = make()
        first = tuple(islice(steps, _CACHED_STEPS))
        if len(first) == _CACHED_STEPS:
            return chain(first, steps)
        if len(self._cache) >= _CACHED_ANSWERS:
            self._cache.clear()
        self._cache[key] = first
        return iter(first)

    def _turn_away(self, connection: Connection, fixed: Fixed, behaviour: Behaviour) -> None:
        self.journal.totals.refused += 1
        connection.play(plan(behaviour, _NOTHING, "", fixed, keep=connection.keep))

    def _control(self, connection: Connection, request: Request) -> None:
        """Serve the control path: read and clear the journal, replace and reset the script."""
        status, body = 200, b"{}"
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "stats":
                body = json.dumps(self.journal.as_dict()).encode()
            case "DELETE", "stats":
                self.journal.clear()
            case "DELETE", "script":
                self.set(Script())
            case "PUT", "script":
                try:
                    self.set(read(request.body.decode("utf-8", "replace")))
                except ScriptError as error:
                    status, body = 400, answers.error(str(error), "invalid_request_error", "invalid_script")
            case _:
                status, body = 404, answers.error("no such control", "invalid_request_error", "unknown_url")
        connection.play(plan(Behaviour(), _NOTHING, "", Fixed(status, body), keep=connection.keep))


def _fixed(exchange: Exchange, asked: Asked, script: Script) -> Fixed:
    """Return the answer to a request that generates nothing."""
    where = f"{exchange.method} {exchange.path}"
    match exchange.method, exchange.path:
        case "GET", "/v1/models":
            return Fixed(200, answers.models(script.models))
        case "GET", "/health":
            return Fixed(200, b'{"status":"ok"}')
        case "POST", path if path in answers.GENERATING:
            return Fixed(400, answers.error(asked.fault or "", "invalid_request_error", "invalid_json"))
        case _, path if path in (*answers.GENERATING, "/v1/models", "/health"):
            return Fixed(
                405, answers.error(f"{where}: wrong method", "invalid_request_error", "method_not_allowed")
            )
    return Fixed(404, answers.error(f"no such endpoint: {where}", "invalid_request_error", "unknown_url"))

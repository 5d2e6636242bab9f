"""The endpoint that shows what a launched engine prints: its last lines, and new ones as they come.

Rules:
- Lines of JSON, one for each line of the engine and one for each mark: it was started, it has ended, lines were lost,
  nothing more will come.
- A client that does not read makes nobody wait. Lines go on being kept as they always are; what it has missed when it
  reads again, it is told.
- A stream ends by itself, whole, when the backend leaves the config and when the gateway begins to stop.
- The engine's key is in no line (`gateway.fleet.output`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query
from fastapi.responses import Response

from backends.base import Kind
from backends.surfaces.openai import UNBUFFERED
from gateway.api.admin import ERRORS, KEY, LINES, LINES_SURFACE, NO_SNIFFING, Admin
from gateway.api.direct import Direct
from gateway.errors import GatewayError, Own
from gateway.fleet import ring
from gateway.fleet.ring import Line, Page, Position
from gateway.request import Exchange
from gateway.wire.downstream import AsgiWayBack, Scope

USUAL = 100
"""Lines that are shown where nobody says how many."""
WAIT = 1.0
"""Seconds that one question for new lines may wait for them."""
BEAT = 15.0
"""Seconds of silence until an empty line is sent, by which both sides notice that the other has gone."""

Read = Callable[[str, Position, float], Awaitable[Page | None]]
"""Reads what a backend's engine prints from a position on, in the process that launches engines, and waits for so many
seconds where there is nothing; None where no such engine is launched."""


class LogEndpoint:
    """The endpoint, and how the process is asked that has the lines."""

    def __init__(self, admin: Admin, read: Read) -> None:
        """Let in whom `admin` lets in."""
        self._admin = admin
        self._read = read

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoint to the application."""

        @app.get("/gateway/backends/{name}/logs", tags=["admin"], responses=ERRORS, openapi_extra=KEY)
        async def logs(
            name: str, lines: Annotated[int, Query(ge=0, le=ring.LINES)] = USUAL, follow: bool = False
        ) -> Response:
            """Show the last lines that a launched engine has printed, with `follow` also new ones as they come.

            The answer is lines of JSON. `kind` is `line`, `start` or `end` of the engine's process, `lost` (`count`
            lines that were gone before they were read), `gone` (the backend has left the config) or `stop` (the
            gateway stops). An empty line is a sign of life.
            """
            return LogStream(self._admin, self._read, name, lines, follow)


class LogStream(Direct):
    """The answer."""

    def __init__(self, admin: Admin, read: Read, name: str, lines: int, follow: bool) -> None:
        super().__init__(admin.core, LINES_SURFACE)
        self._admin = admin
        self._read = read
        self._name = name
        self._lines = lines
        self._follow = follow

    async def serve(self, scope: Scope, way: AsgiWayBack, exchange: Exchange) -> None:
        self._admin.let_in(scope)
        if not self._admin.backend(self._name).launched:
            message = (
                f"the gateway has not launched the engine of backend {self._name!r}: look at its own log"
            )
            raise GatewayError(Kind.UNSUPPORTED, message)
        page = await self._read(self._name, Position(0, self._lines), 0.0)
        if page is None:
            message = f"the engine of backend {self._name!r} is not launched any more"
            raise GatewayError(Own.UNKNOWN_URL, message, code="backend_not_found")
        # It is no request that runs: nobody waits for its end, and it ends by itself when the gateway begins to stop.
        self._core.register.remove(exchange)
        room = _Room()
        way.source = room
        exchange.start([(b"content-type", LINES), NO_SNIFFING, *UNBUFFERED])
        await self._write(page, way, room)
        way.finish()

    async def _write(self, page: Page, way: AsgiWayBack, room: _Room) -> None:
        """Write lines, those of `page` first, until there are no more to come."""
        left, spoken = self._lines, time.monotonic()
        while True:
            if page.lines or page.lost:
                way.write(b"".join(_json(line) for line in _told(page)))
                spoken = time.monotonic()
            elif time.monotonic() - spoken >= BEAT:
                way.write(b"\n")
                spoken = time.monotonic()
            left -= len(page.lines)
            if not self._follow and (left <= 0 or not page.lines):
                return
            while not await room.wait(WAIT) and not self._core.draining:
                pass
            if self._core.draining:
                way.write(_json({"kind": "stop", "text": "the gateway stops"}))
                return
            found = await self._read(
                self._name, Position(page.ring, page.next), WAIT if self._follow else 0.0
            )
            if found is None:
                way.write(_json({"kind": "gone", "text": "the backend has left the config"}))
                return
            page = found


class _Room:
    """Whether there is room for more in the client's socket buffer."""

    def __init__(self) -> None:
        self._room = asyncio.Event()
        self._room.set()

    def pause(self) -> None:
        """Have nothing written for now."""
        self._room.clear()

    def resume(self) -> None:
        """Go on writing."""
        self._room.set()

    async def wait(self, patience: float) -> bool:
        """Wait until there is room, at most so many seconds. Return whether there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return await self._room.wait()
        return False


def _told(page: Page) -> list[dict[str, Any]]:
    lost = [{"kind": "lost", "count": page.lost, "text": f"{page.lost} lines were lost"}] if page.lost else []
    return [*lost, *map(_shown, page.lines)]


def _shown(line: Line) -> dict[str, Any]:
    at = datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds")
    return {"time": at, "kind": line.kind, "text": line.text}


def _json(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"

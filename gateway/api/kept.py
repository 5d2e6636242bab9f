"""The responses that the gateway keeps: saved behind their answers, found for those who made them, deleted when old.

Rules:
- A client never waits for the store because its answer is kept. It is saved once it has gone out completely; what asks
  for it meanwhile waits, and in another process looks again for a moment.
- What cannot be kept (the store fails, the answer is too large, too many wait) is an answer all the same: the log says
  what was lost, once until it works again.
- An answer that failed, or whose client left before its end, is not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from backends.surfaces.responses import kept as said
from gateway.errors import GatewayError, Own
from gateway.request import WayBack
from gateway.store.failure import StoreError
from gateway.store.opening import queries
from gateway.wire.tee import Kept, Recording

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.store import responses
    from gateway.store.store import Store

log = logging.getLogger("gateway.store")

T = TypeVar("T")

LARGEST: Final = 16 << 20
"""Bytes of the largest answer that is kept."""
ROOM: Final = 64 << 20
"""Bytes that may wait to be saved, in one process; what comes on top is not kept."""
LOOKS: Final = (0.05, 0.1, 0.2, 0.4)
"""Seconds between the looks for a response that another process may be saving at this moment."""
CLEANING: Final = 3600.0
"""Seconds between two looks for old responses."""
FIRST_CLEANING: Final = 60.0
"""Seconds from the start until the first."""


class Turn(msgspec.Struct, frozen=True):
    """What is known of a response before its answer: whose it is, what was said, and what it continues."""

    owner: str
    input: bytes
    previous: str = ""
    before: tuple[str, ...] = ()
    """All responses that it continues."""


class KeptResponses:
    """All of them, for one process."""

    def __init__(self, store: Store, age: Callable[[], int], processes: Callable[[], int]) -> None:
        """Keep them in a store. `age` tells for how many seconds, `processes` how many this gateway has."""
        self._store = store
        self._age = age
        self._processes = processes
        self._queries: ModuleType = queries()
        self._saving: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._waiting = 0
        """Bytes that wait to be saved."""
        self._is_losing = False

    def recording(self, way: WayBack, turn: Turn, streamed: bool) -> Recording:
        """Return what takes the place of a channel and has the response kept. `streamed`: it comes in events."""
        marks = said.ENDS if streamed else ()
        return Recording(way, Kept(LARGEST), marks, partial(self._answered, turn, streamed))

    def _answered(self, turn: Turn, streamed: bool, data: bytes) -> None:
        self.keep(turn, said.response_in(data) if streamed else data)

    def keep(self, turn: Turn, response: bytes) -> None:
        """Save a response soon. Raises nothing, and does not wait."""
        size = len(response) + len(turn.input)
        name = said.id_of(response)
        if not name or len(name) > said.LONGEST:
            return
        if size > LARGEST or self._waiting + size > ROOM:
            self._lost("it is too large" if size > LARGEST else "too many wait to be saved")
            return
        self._waiting += size
        key = (turn.owner, name)
        task = asyncio.get_running_loop().create_task(self._save(turn, name, response, self._saving.get(key)))
        self._saving[key] = task
        task.add_done_callback(lambda done: self._saved(key, size, done))

    async def _save(self, turn: Turn, name: str, response: bytes, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])

        try:
            await self._store.write(self.saving(turn, name, response))
        except StoreError as error:
            self._lost(error.reason)
        except Exception:
            log.exception("a response could not be kept, which is a bug of the gateway")
        else:
            self._is_losing = False

    def saving(self, turn: Turn, name: str, response: bytes) -> Callable[[Connection], None]:
        """Return what saves a response, in a thread of the store."""

        def work(connection: Connection) -> None:
            found = self._queries.Kept(name, turn.previous, said.input_items(turn.input), response)
            items = list(said.items_of(response))
            self._queries.save(connection, turn.owner, found, turn.before, int(time.time()), items)

        return work

    def _saved(self, key: tuple[str, str], size: int, task: asyncio.Task[None]) -> None:
        self._waiting -= size
        if self._saving.get(key) is task:
            del self._saving[key]

    def _lost(self, reason: str) -> None:
        if not self._is_losing:
            self._is_losing = True
            log.warning("responses are answered and not kept: %s", reason)

    async def find(self, owner: str, name: str) -> responses.Kept:
        """Return a response. Raises GatewayError (404) where this owner has none of this id, and StoreError."""
        try:
            return await self._read(
                owner, name, lambda connection: self._queries.find(connection, owner, name)
            )
        except self._queries.Missing:
            raise unknown(name) from None

    async def chain(self, owner: str, name: str, most: int) -> list[responses.Kept]:
        """Return a response behind all that it continues, the oldest first, `most` bytes together.

        Raises GatewayError where one of them is not there or they are too much, and StoreError.
        """

        def work(connection: Connection) -> list[responses.Kept]:
            found: list[responses.Kept] = self._queries.chain(connection, owner, name, most)
            return found

        try:
            return await self._read(owner, name, work)
        except self._queries.Missing as error:
            message = f"Previous response with id '{error.name[:128]}' not found."
            code = "previous_response_not_found"
            raise GatewayError(Own.INVALID, message, param="previous_response_id", code=code) from None
        except self._queries.TooLong:
            message = f"the conversation up to response '{name[:128]}' is larger than {most} bytes"
            raise GatewayError(Own.TOO_LARGE, message, param="previous_response_id") from None

    async def items(self, owner: str, names: list[str], most: int) -> dict[str, msgspec.Raw]:
        """Return items of earlier answers by their ids, out of `most` bytes of responses.

        Raises GatewayError where one of them is not there or they are too much, and StoreError.
        """

        def work(connection: Connection) -> dict[str, msgspec.Raw]:
            found = self._queries.holders(connection, owner, names, most)
            known = {bytes(response): said.items_of(response) for response in set(found.values())}
            return {name: known[response][name] for name, response in found.items()}

        try:
            return await self._read(owner, "", work)
        except self._queries.Missing as error:
            message = (
                f"Item with id '{error.name[:128]}' not found in the responses of this key that are kept."
            )
            raise GatewayError(
                Own.INVALID, message, param="input", code="item_not_found", status=404
            ) from None
        except self._queries.TooLong:
            message = f"the responses whose items are referred to are larger than {most} bytes"
            raise GatewayError(Own.TOO_LARGE, message, param="input") from None

    async def delete(self, owner: str, name: str) -> None:
        """Delete a response. Raises GatewayError (404) where this owner has none of this id, and StoreError."""
        await self.find(owner, name)
        await self._store.write(lambda connection: self._queries.delete(connection, owner, name))

    async def _read(self, owner: str, name: str, work: Callable[[Connection], T]) -> T:
        """Read, once what is being saved under this name has been, or under any if it is empty.

        Raises what `work` raises.
        """
        saving = [task for (who, what), task in self._saving.items() if who == owner and name in ("", what)]
        if saving:
            await asyncio.wait(saving)
        for pause in LOOKS if self._processes() > 1 else ():
            try:
                return await self._store.read(work)
            except self._queries.Missing:
                await asyncio.sleep(pause)
        return await self._store.read(work)

    async def run(self) -> None:
        """Delete what is too old, now and then, until cancelled."""
        await asyncio.sleep(FIRST_CLEANING)
        while True:
            with contextlib.suppress(StoreError):  # which the store has logged
                await self.clean()
            await asyncio.sleep(CLEANING)

    async def clean(self) -> int:
        """Delete what is too old. Return how many."""
        total = 0
        while True:
            limit = int(time.time()) - self._age()
            count: int = await self._store.write(partial(self._queries.expire, before=limit))
            total += count
            if not count:
                break
        if total:
            log.info("responses that were older than `server.data.keep` are deleted: %d", total)
        return total

    async def close(self) -> None:
        """Wait until what has been answered is saved."""
        while self._saving:
            await asyncio.wait(list(self._saving.values()))


def unknown(name: str) -> GatewayError:
    """Return the error for a response that does not exist, or is somebody else's."""
    message = f"Response with id '{name[:128]}' not found."
    return GatewayError(Own.INVALID, message, param="id", code="response_not_found", status=404)

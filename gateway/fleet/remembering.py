"""What launched engines were measured to take, remembered from one run of the gateway to the next.

Rules:
- It is read once, before the first decision, and written in a task beside: after an engine was measured for the first
  time, when one has stopped, every few minutes, and at the end.
- A store that fails costs nothing but the memory of it: decisions are made without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.fleet.needs import Needs

if TYPE_CHECKING:
    from gateway.store.engine_memory import EngineMemory
    from gateway.store.taken import Taken

log = logging.getLogger("gateway.fleet")

EVERY = 120.0
"""Seconds between two writings while engines only go on running."""
PATIENCE = 5.0
"""Seconds that the store may take, before the first decision and at the end."""


class Remembering:
    """The measurements of all launched engines of one gateway, as the store has them."""

    def __init__(self, memory: EngineMemory) -> None:
        """Remember nothing yet."""
        self._memory = memory
        self._known: dict[str, Taken] = {}
        """What the store has, as far as this process knows."""
        self._written_at = 0.0
        self._writing: asyncio.Task[None] | None = None

    async def recall(self) -> None:
        """Read what the store has."""
        try:
            async with asyncio.timeout(PATIENCE):
                self._known = await self._memory.read()
        except (GatewayError, TimeoutError) as error:
            log.warning("what engines took before is not known: %s", error or "the store does not answer")

    def tell(self, needs: Needs) -> None:
        """Tell an engine's needs what was measured when it last ran, if it is started as it was then."""
        known = self._known.get(needs.name)
        if known is not None and known.launch == needs.fingerprint:
            needs.recall(known.amounts)

    def note(self, running: Iterable[Needs], stopped: Iterable[Needs], now: float) -> None:
        """Have written what is new, if it is time for that, of engines that run and of those that do not."""
        if self._writing is not None and not self._writing.done():
            return
        fresh = [
            needs for needs in running if needs.name not in self._known or now - self._written_at > EVERY
        ]
        changed = self._changed(fresh, running=True) | self._changed(stopped, running=False)
        if changed:
            self._written_at = now
            self._writing = asyncio.get_running_loop().create_task(self._write(changed))

    async def end(self, all_: Iterable[Needs]) -> None:
        """Write what is new of all engines, and wait for it."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=PATIENCE)
        changed = self._changed(all_, running=False)
        if changed:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._write(changed)
            except TimeoutError:
                log.warning("what engines took is not kept: the store does not answer")

    def _changed(self, all_: Iterable[Needs], running: bool) -> dict[str, Taken]:
        found = {needs.name: needs.taken(running) for needs in all_ if needs.measured}
        return {name: taken for name, taken in found.items() if self._known.get(name) != taken}

    async def _write(self, taken: dict[str, Taken]) -> None:
        try:
            await self._memory.write(taken)
        except GatewayError:
            return  # the store has said so in the log; it is tried again when it is time
        self._known.update(taken)

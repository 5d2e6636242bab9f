"""The backends of the gateway by name, and the way to wait for one of them to become ready.

Rules:
- One event loop, one writer: whoever changes a backend's state announces it, which wakes all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backends.base import Health
from gateway.errors import GatewayError, Own
from gateway.fleet.backend import Backend
from gateway.fleet.lease import Target


class Pool:
    """All backends of the current config."""

    def __init__(self) -> None:
        """Start empty."""
        self.backends: dict[str, Backend] = {}
        """By name, in the order of the config; replaced as a whole when the config changes."""
        self._changed = asyncio.Event()

    def untold(self) -> bool:
        """Tell whether models may be missing that a backend has yet to tell.

        So it is while none has told any, and while one that has not is coming up.
        """
        untold = [backend for backend in self.backends.values() if backend.models is None]
        return len(untold) == len(self.backends) or any(
            backend.health in (None, Health.LOADING) for backend in untold
        )

    def announce(self) -> None:
        """Wake everybody who waits for a change: some backend has changed its state."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next announcement."""
        await self._changed.wait()

    async def warm(self, targets: Sequence[Target], deadline: float) -> None:
        """Wait while every backend that could serve is still loading, until `deadline` (loop time).

        Backends that are down, not loading, are not waited for: the caller will find out what is wrong with them.

        Raises:
            GatewayError: It took too long.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while not any(target.backend.usable for target in targets):
                    if not any(target.backend.coming for target in targets):
                        return
                    await self.change()
        except TimeoutError:
            raise GatewayError(
                Own.QUEUE_TIMEOUT, "the model is still loading", code="model_loading", retry_after=5
            ) from None

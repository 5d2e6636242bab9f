"""The backends of the gateway by name, and the way to wait for one of them to become ready.

Rules:
- One event loop, one writer: whoever changes a backend's state announces it, which wakes all who wait.
- Whoever waits for an engine that is not running says so, which is why it starts. Nothing else starts one for requests.
- One engine is started for a request, and another one only where that has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from backends.base import Health
from gateway.errors import GatewayError, Own
from gateway.fleet.adapters import Adapters
from gateway.fleet.backend import Backend
from gateway.fleet.lease import Target
from gateway.fleet.residence import Want
from gateway.telemetry.of_adapters import AdapterMetrics
from gateway.telemetry.registry import Families

OnWait = Callable[[Backend], None]
"""Called with the backend whose start is waited for."""


class Pool:
    """All backends of the current config."""

    def __init__(self, metrics: AdapterMetrics | None = None) -> None:
        """Start empty. `metrics` count what becomes of adapters; left out, nobody reads them."""
        self.backends: dict[str, Backend] = {}
        """By name, in the order of the config; replaced as a whole when the config changes."""
        self.on_change: Callable[[], None] | None = None
        """Called at each announcement."""
        self._changed = asyncio.Event()
        self.adapters: Adapters = Adapters(self.announce, self.change, metrics or AdapterMetrics(Families()))
        """The LoRA adapters that backends have, and load when requests need them."""

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
        self.adapters.look()
        if self.on_change is not None:
            self.on_change()

    async def change(self) -> None:
        """Wait for the next announcement."""
        await self._changed.wait()

    async def warm(
        self, targets: Sequence[Target], deadline: float, last: float, seen: OnWait | None = None
    ) -> None:
        """Wait while every backend that could serve is still loading, until `deadline` (loop time).

        Where none is, and an engine can be started, wait for that one as long as it says, until `last` at most.
        Backends that are down, not loading, are not waited for: the caller will find out what is wrong with them.
        `seen` is told which backend is waited for, each time anything has changed.

        Raises:
            GatewayError: It took too long, or no engine could be started.
        """
        backends = [target.backend for target in targets]
        wish = _Wish(backends)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline) as limit:
                while not any(backend.usable for backend in backends):
                    wish.renew()
                    if wish.want is not None:
                        limit.reschedule(min(last, wish.want.residence.patience(began)))
                    elif not wish.others_come():
                        wish.complain()
                        return
                    if seen is not None and (awaited := wish.awaited()) is not None:
                        seen(awaited)
                    await self.change()
        except TimeoutError:
            raise GatewayError(
                Own.QUEUE_TIMEOUT, "the model is still loading", code="model_loading", retry_after=5
            ) from None
        finally:
            wish.drop()


class _Wish:
    """Which engine one request waits for."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = backends
        self._failed: list[Backend] = []
        self._backend: Backend | None = None
        self.want: Want | None = None

    def renew(self) -> None:
        """Want an engine: the one so far, unless it has failed; else one that is starting already, or the first."""
        if self.want is not None and self.want.failed:
            assert self._backend is not None
            self._failed.append(self._backend)
            self.drop()
        if self.want is not None and self._backend is not None and self._backend.startable:
            return
        self.drop()
        left = [each for each in self._backends if each.startable and each not in self._failed]
        if left:
            self._backend = min(left, key=lambda backend: not backend.coming)
            assert self._backend.residence is not None
            self.want = self._backend.residence.want()

    def awaited(self) -> Backend | None:
        """Return the backend that is waited for: the one that is wanted, else the first that is coming up."""
        if self.want is not None:
            return self._backend
        return next((each for each in self._backends if each.coming and each not in self._failed), None)

    def others_come(self) -> bool:
        """Tell whether a backend is coming up that has not failed this request."""
        return any(backend.coming and backend not in self._failed for backend in self._backends)

    def complain(self) -> None:
        """Raise GatewayError if an engine was wanted, and did not come."""
        if self._failed and (residence := self._failed[-1].residence) is not None:
            name = self._failed[-1].name
            message = f"the engine of backend {name!r} does not start: {residence.why}"
            raise GatewayError(Own.NO_BACKEND, message, code="model_not_started", retry_after=5)

    def drop(self) -> None:
        """Want nothing any more."""
        if self.want is not None:
            self.want.drop()
            self.want = None

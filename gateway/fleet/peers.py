"""The processes of one gateway as one of them sees them: what it has to ask the others, or to tell them.

Rules:
- Whoever answers a client does not know how many processes there are. There are two implementations: `Alone` here, and
  the worker of a master in `gateway.worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from backends.base import Kind
from gateway.config.outcome import Outcome
from gateway.errors import GatewayError
from gateway.fleet.fleet import Fleet
from gateway.fleet.orders import Order
from gateway.fleet.residence import Wishes
from gateway.fleet.ring import Page, Position
from gateway.fleet.view import BackendView
from gateway.telemetry.metrics import Metrics

Own = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Answers an operator's question for one process, in plain JSON; what may be asked is in `gateway.api.overview`."""


class Peers(Protocol):
    """All processes of this gateway. `metrics` and `fleet` are those of the process that asks."""

    @property
    def launches(self) -> bool:
        """Whether this process launches engines, and asks for their signals; else another one does."""

    @property
    def wishes(self) -> Wishes | None:
        """Tells the process that launches what requests of this one want of engines; None: it is this one."""

    @property
    def serving(self) -> int:
        """How many processes serve requests."""

    async def page(self, metrics: Metrics, openmetrics: bool) -> Iterable[str]:
        """Return the metrics page with the numbers of all processes, in pieces that are made one by one."""

    async def views(self, fleet: Fleet) -> list[BackendView]:
        """Return the backends as all processes see them."""

    async def order(self, fleet: Fleet, order: Order) -> None:
        """Have all processes do what an operator has ordered; returns when they have."""

    async def asked(self, kind: str, arguments: dict[str, Any], own: Own) -> Any:
        """Return what all processes answer to a question, as one answer. `own` answers for this one."""

    async def printed(self, fleet: Fleet, name: str, at: Position, patience: float) -> Page | None:
        """Return what a launched engine has printed since a position, as `Fleet.printed` of the process that runs it.

        Raises GatewayError where that one does not answer.
        """

    async def reload(self) -> Outcome:
        """Read the config anew and apply it in all processes. Raises GatewayError where there is nothing to read."""

    async def profile(self, use: Callable[[str | None], None], name: str | None) -> None:
        """Have a profile of the config be active in all processes, or none; returns when it is.

        `use` makes it be active in the process that asks. Raises GatewayError where another one does not answer.
        """

    async def changed(self, fleet: Fleet, name: str) -> None:
        """Say that this process has changed a backend's models; returns when it has asked the backend for them anew."""


class Alone:
    """The only process."""

    launches = True
    wishes = None
    serving = 1

    def __init__(self) -> None:
        self.on_reload: Callable[[], Awaitable[Outcome]] | None = None
        """Reads the config anew; None where the gateway was not made from a file."""

    async def profile(self, use: Callable[[str | None], None], name: str | None) -> None:
        """Have a profile of the config be active, or none."""
        use(name)

    async def reload(self) -> Outcome:
        """Read the config anew and apply it. Raises GatewayError where there is nothing to read."""
        if self.on_reload is None:
            raise GatewayError(Kind.UNSUPPORTED, "this gateway was not started from a config file")
        return await self.on_reload()

    async def page(self, metrics: Metrics, openmetrics: bool) -> Iterable[str]:
        """Return the metrics page of this process, in pieces that are made one by one."""
        return metrics.pieces(openmetrics)

    async def views(self, fleet: Fleet) -> list[BackendView]:
        """Return the backends as this process sees them."""
        return fleet.views(asyncio.get_running_loop().time())

    async def order(self, fleet: Fleet, order: Order) -> None:
        """Do what an operator has ordered."""
        fleet.obey(order)

    async def asked(self, kind: str, arguments: dict[str, Any], own: Own) -> Any:
        """Return what this process answers."""
        return await own(kind, arguments)

    async def printed(self, fleet: Fleet, name: str, at: Position, patience: float) -> Page | None:
        """Return what a launched engine has printed since a position."""
        return await fleet.printed(name, at, patience)

    async def changed(self, fleet: Fleet, name: str) -> None:
        """Ask the backend for its models anew."""
        await fleet.refresh(name)

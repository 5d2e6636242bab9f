"""What an operator has ordered for a backend by name: to take no requests, another weight, for good or for a while.

Rules:
- An order belongs to a name. It outlives the config that names the backend, and the backend itself where a reload has
  to replace it; it does not outlive the gateway.
- An order that is for a while ends by itself. Time is an argument: the event loop's.
- Between processes an order says how many seconds are left, because their clocks may begin at different times.
- One event loop, one writer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple

LARGEST_WEIGHT: Final = 10.0
"""The largest factor on a backend's weight."""
NEXT_TO_NOTHING: Final = 1e-9
"""The factor that stands for none: such a backend gets a request only where no other one can take it."""


class Kind(enum.StrEnum):
    """What can be ordered."""

    DRAIN = "drain"
    """Take no requests; those under way finish."""
    UNDRAIN = "undrain"
    WEIGHT = "weight"
    """Multiply the backend's weight in every model by a factor."""
    RESET_BREAKER = "reset_breaker"
    """Close the breaker and hold nothing against the backend. It is done at once, and nothing of it lasts."""
    START = "start"
    """Start the launched engine, and let requests start it again."""
    STOP = "stop"
    """Stop the launched engine once its requests have ended. One that always runs stays so until it is started."""


class Order(NamedTuple):
    """One order."""

    backend: str
    kind: Kind
    weight: float = 1.0
    """The factor, for `WEIGHT` only."""
    seconds: float | None = None
    """How long it holds; None: until another order."""

    def __str__(self) -> str:
        """Return it in words, for the log."""
        weight = f" {self.weight:g}" if self.kind is Kind.WEIGHT else ""
        limit = "" if self.seconds is None else f" for {self.seconds:g} s"
        return f"{self.kind}{weight}{limit}"

    def plain(self) -> list[Any]:
        """Return it as JSON has it."""
        return [self.backend, self.kind.value, self.weight, self.seconds]

    @classmethod
    def read(cls, plain: list[Any]) -> Order:
        """Return the order that another process has made plain."""
        backend, kind, weight, seconds = plain
        return cls(backend, Kind(kind), weight, seconds)


class Orders:
    """The orders that hold for one backend now."""

    __slots__ = ("drained", "drained_until", "factor", "weight", "weight_until")

    def __init__(self) -> None:
        """Start with none."""
        self.drained: bool = False
        """Whether it takes no requests."""
        self.drained_until: float | None = None
        self.weight: float = 1.0
        """The factor on its weight, as it was ordered: 0 to `LARGEST_WEIGHT`."""
        self.factor: float = 1.0
        """The same as balancers use it: never 0."""
        self.weight_until: float | None = None

    def take(self, order: Order, now: float) -> None:
        """Do what an order says from `now` on, instead of an earlier one of its kind."""
        until = None if order.seconds is None else now + order.seconds
        if order.kind is Kind.DRAIN:
            self.drained, self.drained_until = True, until
        elif order.kind is Kind.UNDRAIN:
            self.drained, self.drained_until = False, None
        elif order.kind is Kind.WEIGHT:
            self._weigh(order.weight, until if order.weight != 1.0 else None)

    def expire(self, now: float) -> list[Kind]:
        """End the orders whose time is over. Return their kinds."""
        ended = []
        if self.drained_until is not None and self.drained_until <= now:
            self.drained, self.drained_until = False, None
            ended.append(Kind.DRAIN)
        if self.weight_until is not None and self.weight_until <= now:
            self._weigh(1.0, None)
            ended.append(Kind.WEIGHT)
        return ended

    def next_end(self) -> float | None:
        """Return when the first order ends by itself; None if none does."""
        ends = [until for until in (self.drained_until, self.weight_until) if until is not None]
        return min(ends, default=None)

    def _weigh(self, weight: float, until: float | None) -> None:
        self.weight, self.weight_until = weight, until
        self.factor = max(weight, NEXT_TO_NOTHING)


class Standing:
    """The orders for all backends, by name."""

    def __init__(self, ended: Callable[[str, Kind], None]) -> None:
        """Start with none. `ended` is called with each order that ends by itself."""
        self._by_name: dict[str, Orders] = {}
        self._ended = ended

    def of(self, backend: str) -> Orders:
        """Return the orders for the backend of this name, which may come later: always the same object."""
        return self._by_name.setdefault(backend, Orders())

    def expire(self, now: float) -> None:
        """End the orders whose time is over."""
        for name, orders in self._by_name.items():
            for kind in orders.expire(now):
                self._ended(name, kind)

    def next_end(self) -> float | None:
        """Return when the first order ends by itself; None if none does."""
        ends = [orders.next_end() for orders in self._by_name.values()]
        return min((until for until in ends if until is not None), default=None)

    def told(self, now: float) -> list[Order]:
        """Return the orders that hold at `now`, for another process."""
        told = []
        for name, orders in self._by_name.items():
            if orders.drained:
                told.append(Order(name, Kind.DRAIN, seconds=_left(orders.drained_until, now)))
            if orders.weight != 1.0:
                told.append(Order(name, Kind.WEIGHT, orders.weight, _left(orders.weight_until, now)))
        return told


def _left(until: float | None, now: float) -> float | None:
    return None if until is None else max(0.0, until - now)

"""The requests that are refused for some minutes, because engines died of them.

Rules:
- Pure bookkeeping with time as an argument, of bounded size. A request is known by a number made of its body.
- A request is suspected if it was the only one at an engine that broke its connection off. The suspicion is confirmed
  when that engine is found to be gone. Two confirmed ones, and it is refused.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.errors import GatewayError, Own
from gateway.fleet.known import Death

log = logging.getLogger("gateway.dispatch")

KEPT: Final = 300.0
"""Seconds for which a death is remembered, and thus the longest time for which a request is refused."""
DEADLY: Final = 2
"""Engines that must have died of a request before it is refused."""
MOST: Final = 256
"""Deaths that are remembered at most; the oldest are forgotten first."""


class Quarantine:
    """The deaths of engines that may have been some request's doing."""

    __slots__ = ("_told", "deaths")

    def __init__(self) -> None:
        self.deaths: list[Death] = []
        """In the order of time."""
        self._told: set[int] = set()

    def suspect(self, death: Death) -> None:
        """Remember that an engine may have died of a request."""
        self.deaths.append(death)
        del self.deaths[:-MOST]

    def refusal(self, request: int, now: float) -> GatewayError | None:
        """Return the refusal of a request that engines died of; None if it may be sent. It is logged once.

        Call it only while `deaths` is not empty.
        """
        if self.deaths[0].at <= now - KEPT:
            self.deaths = [death for death in self.deaths if death.at > now - KEPT]
            self._told &= {death.request for death in self.deaths}
        found = [death for death in self.deaths if death.request == request and death.confirmed]
        if len(found) < DEADLY:
            return None
        left = found[-DEADLY].at + KEPT - now
        if request not in self._told:
            self._told.add(request)
            log.error(
                "request %s is refused for %d s: the engines of %s died while it was the only request there",
                found[-1].id,
                round(left),
                " and ".join(f"'{death.backend}'" for death in found[-DEADLY:]),
            )
        message = (
            f"two engines died while this request was the only one there; it is refused for {left:.0f} s"
        )
        return GatewayError(Own.QUARANTINED, message)

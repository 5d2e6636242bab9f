"""The canaries of the routes as live things: fed with finished requests, shown in metrics, their turns logged.

Rules:
- A canary lives by the name of its route and survives a reload. It begins anew when its models or its growth change.
- What says nothing of a model is not counted: clients that left, and requests that were wrong.
- A request that a fallback had to answer has failed the model that it was meant for.
- Each worker process counts its own requests and decides for itself; a roll-back in one is not told to the others. An
  operator who begins a canary again has all of them do so.
- A canary begins when its route comes into force.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

from gateway.config.canary import Growth
from gateway.request import Exchange, FinishedSink
from gateway.routing.canary import Canary, State
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import SECOND

log = logging.getLogger("gateway.routing")

_FAILED: Final = frozenset(("upstream_error", "timeout", "overloaded", "internal_error"))


class LiveCanary:
    """The canary of one route."""

    __slots__ = ("_canary", "_metrics", "_name", "_of")

    def __init__(self, name: str, of: tuple[str, str, Growth], metrics: Metrics, now: float) -> None:
        """`of` is the incumbent's model, the canary's, and how its share grows; `now` is the loop's time."""
        self._name = name
        self._of = of
        self._metrics = metrics
        self._canary = Canary(of[2], now)
        self._show()

    @property
    def share(self) -> float:
        """The share of the requests that go to the canary now, from 0 to 1."""
        return self._canary.share

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._canary.state

    @property
    def reason(self) -> str:
        """Why it is held or was rolled back, in words; else empty."""
        return self._canary.reason

    def progress(self, now: float) -> str:
        """Return in words where it stands at `now`, and what the next step waits for."""
        return self._canary.progress(now)

    def told(self, now: float) -> dict[str, Any]:
        """Return it as plain values, as `GET /gateway/canaries` does."""
        here = {
            "state": self.state.value,
            "share": self.share,
            "reason": self.reason,
            "progress": self.progress(now),
        }
        against, model, _ = self._of
        return {"route": self._name, "model": model, "against": against, "processes": [here]}

    def is_of(self, of: tuple[str, str, Growth]) -> bool:
        """Tell whether it has these models and grows like this."""
        return self._of == of

    def watch(self, exchange: Exchange, canary: bool) -> None:
        """Count a request when it has finished; `canary` tells whether it goes to the canary or to the incumbent."""
        exchange.sink = _Watched(exchange.sink, self, canary)

    def reset(self, now: float) -> None:
        """Begin again with the first step."""
        self._canary.reset(now)
        self._show()

    def count(self, exchange: Exchange, canary: bool) -> None:
        """Count a request that has finished."""
        failed = exchange.outcome in _FAILED
        if not failed and exchange.outcome != "ok":
            return
        failed = failed or exchange.served != exchange.model
        first_token = None
        if exchange.request.stream and not failed:
            first_token = exchange.timeline.until_answer / SECOND
        changed = self._canary.count(canary, failed, first_token, exchange.way.loop.time())
        if changed is not None:
            self._tell(changed)

    def _tell(self, state: State) -> None:
        self._show()
        if state is State.ROLLED_BACK:
            self._metrics.routes.canary_rollbacks.cell(self._name).value += 1
            log.warning(
                "route '%s': the canary '%s' goes back to zero and stays there: %s",
                self._name,
                self._of[1],
                self.reason,
            )
        elif state is State.HELD:
            log.info("route '%s': the canary stays at %.4g %%: %s", self._name, self.share * 100, self.reason)
        else:
            log.info("route '%s': the canary gets %.4g %% of the requests", self._name, self.share * 100)

    def _show(self) -> None:
        self._metrics.routes.canary_share.cell(self._name).value = self.share


class _Watched:
    """The sink of a request that a canary counts, in front of the one that it had."""

    __slots__ = ("_canary", "_live", "_sink")

    def __init__(self, sink: FinishedSink, live: LiveCanary, canary: bool) -> None:
        self._sink = sink
        self._live = live
        self._canary = canary

    def finished(self, exchange: Exchange) -> None:
        """Record one request that has ended."""
        self._sink.finished(exchange)
        self._live.count(exchange, self._canary)


class Canaries:
    """Every canary, by the name of its route."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.live: dict[str, LiveCanary] = {}

    def canary(self, name: str, of: tuple[str, str, Growth], now: float) -> LiveCanary:
        """Return the canary of a route, as it stands if it is `of` the same; else a new one that begins at `now`."""
        found = self.live.get(name)
        if found is None or not found.is_of(of):
            found = self.live[name] = LiveCanary(name, of, self._metrics, now)
        return found

    def reset(self, name: str, now: float) -> None:
        """Begin the canary of a route again with its first step, if there is one."""
        live = self.live.get(name)
        if live is not None:
            live.reset(now)

    def told(self, now: float) -> list[dict[str, Any]]:
        """Return every canary as plain values, as this process has it at `now`."""
        return [live.told(now) for live in self.live.values()]

    def keep(self, names: Collection[str]) -> None:
        """Forget every canary whose route is not among `names`."""
        for name in self.live.keys() - set(names):
            del self.live[name]
            self._metrics.routes.canary_share.forget(name)

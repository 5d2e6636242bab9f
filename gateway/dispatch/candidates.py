"""The backends a request may still go to: in which order, how often, and where it may wait for a slot.

Rules:
- The groups of a plan are asked in order. One whose backends are all busy is waited for before the next one is asked.
- A backend is tried once. An attempt that found no connection costs none of those the config allows.
- When they are spent, each group that was not asked yet still gets its turn: a fallback is no retry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from backends.base import Headers
from gateway.admission.gate import Gate
from gateway.asked import Asked
from gateway.errors import GatewayError, Own
from gateway.fleet.backend import Backend
from gateway.fleet.lease import Lease, Target, full, pick
from gateway.request import Exchange
from gateway.routing.catalog import Group

log = logging.getLogger("gateway.dispatch")


class Candidates:
    """The targets of one request, and what has become of those that were tried."""

    __slots__ = (
        "_affinity",
        "_asked",
        "_attempts",
        "_groups",
        "_lost",
        "_tried",
        "_unreached",
        "model",
        "spent",
        "unfetched",
        "waited_out",
    )

    def __init__(self, groups: tuple[Group, ...], attempts: int, asked: Asked | None = None) -> None:
        """Start with every target of `groups` untried; `attempts` is how many attempts the config allows.

        `asked` is what the request asks for, where the choice may depend on it.
        """
        self._groups: tuple[Group, ...] = groups
        self._attempts: int = attempts
        self._asked: Asked | None = asked
        self._affinity: str = ""
        self._tried: list[Target] = []
        self._unreached: list[Target] | None = None
        self.spent: int = 0
        """Attempts made, without those that found no connection."""
        self.waited_out: GatewayError | None = None
        """Why no slot can be waited for any longer."""
        self.unfetched: GatewayError | None = None
        """Why an adapter could not be loaded, if that was tried."""
        self._lost: bool = False
        """Whether an engine was found to lack an adapter that it should have had."""
        self.model: str = ""
        """The model of the target that was picked last: the requested one or a fallback."""

    def pick(self, now: float, last_resort: bool = False) -> Lease | None:
        """Return a lease on the backend to try now; None if there is none."""
        tried = self._tried
        for group in self._groups:
            if self._is_spent(group):
                continue
            lease = pick(group.targets, group.balancer, now, tried, last_resort, None, self._asked)
            if lease is not None:
                return self._taken(lease, group)
            if self.waited_out is None and not last_resort and full(group.targets, now, tried):
                return None
            if not last_resort and self._unloaded(group):
                return None
        return None

    def unloaded(self) -> list[Target]:
        """Return the targets whose backends could serve if they had an adapter: those of the first such group."""
        for group in self._groups:
            found = [] if self._is_spent(group) else self._unloaded(group)
            if found:
                return found
        return []

    def _unloaded(self, group: Group) -> list[Target]:
        """Return the targets of a group that an adapter would have to be loaded for."""
        return [
            target
            for target in group.targets
            if target.adapter is not None
            and not target.adapter.loaded
            and target.backend.usable
            and target not in self._tried
        ]

    def refuse(self, target: Target, error: GatewayError) -> None:
        """Leave out a target whose adapter cannot be loaded."""
        self._tried.append(target)
        self.unfetched = error

    def lost(self, target: Target) -> bool:
        """Take note that an engine lacks the adapter of a target. Return whether it is loaded and asked once more."""
        adapter = target.adapter
        if adapter is None or self._lost:
            return False
        self._lost = True
        adapter.lost()
        self.forget(target)
        return True

    def pick_with_slot(self, gate: Gate, now: float) -> Lease | None:
        """Return a lease with the slot of `gate` that the caller holds; None if its backend cannot be used any more."""
        for group in self._groups:
            targets = [target for target in group.targets if target.backend.gate is gate]
            lease = pick(targets, group.balancer, now, self._tried, False, gate, self._asked)
            if lease is not None:
                return self._taken(lease, group)
        return None

    def pick_beside(self, target: Target, now: float) -> Lease | None:
        """Return a lease on another backend of the same model that is up and has no queue; None if there is none."""
        for group in self._groups:
            if target in group.targets:
                lease = pick_quiet(group.targets, now, self._tried, target.backend.in_flight)
                return None if lease is None else self._taken(lease, group)
        return None

    def gates(self, now: float) -> list[Gate]:
        """Return the gates to wait at: those of the first group that could serve if it had a free slot."""
        if self.waited_out is None:
            for group in self._groups:
                gates = [] if self._is_spent(group) else full(group.targets, now, self._tried)
                if gates or self._unloaded(group):
                    return gates
        return []

    def untried(self) -> list[Target]:
        """Return every target that may still be tried."""
        return [target for group in self._groups for target in group.targets if target not in self._tried]

    def error(self, model: str) -> GatewayError:
        """Return why no target can be tried."""
        known = self.waited_out or self.unfetched
        return known or GatewayError(Own.NO_BACKEND, self.nobody(model), retry_after=5)

    def nobody(self, model: str) -> str:
        """Return in words why no target can be tried: those that are left are not up, or sleep, or are drained."""
        left = self.untried()
        if left and all(target.backend.orders.drained for target in left):
            return f"all backends of the model {model!r} are drained; an operator has to undrain one"
        if left and all(target.backend.asleep for target in left):
            return f"all backends of the model {model!r} sleep; somebody has to wake one"
        return f"no backend of the model {model!r} is up"

    def more(self) -> bool:
        """Tell whether another attempt is allowed, and there is a backend for it or will be soon."""
        if self.spent < self._attempts:
            restarting = any(target.backend.coming for target in self._unreached or ())
            return restarting or bool(self.untried())
        return any(map(self._is_fresh, self._groups))

    def larger_only(self) -> bool:
        """Keep the models that take longer prompts than the one tried last. Return whether there are some."""
        last = next((group.context for group in self._groups if group.model == self.model), None)
        if last is None:
            return False
        larger = [group for group in self._groups if group.context is not None and group.context > last]
        if larger:
            self._groups = tuple(larger)
        return bool(larger)

    def forget(self, target: Target) -> None:
        """Let a backend be tried again, and the attempt at it cost nothing: nothing has been learned there."""
        self._tried.remove(target)
        self.spent -= 1

    def unreached(self, target: Target) -> None:
        """Take note that no connection to a backend could be made: the attempt costs nothing."""
        self.spent -= 1
        if self._unreached is None:
            self._unreached = []
        self._unreached.append(target)

    def forgive_restarting(self) -> None:
        """Let backends be tried again that could not be reached and are being started: they will be back soon."""
        if self._unreached is None:
            return
        for target in [target for target in self._unreached if target.backend.coming]:
            self._unreached.remove(target)
            self._tried.remove(target)

    def headers(self, backend: Backend, exchange: Exchange) -> Headers:
        """Return the headers that tell the client who answers, for the attempt that begins now."""
        headers = (
            (b"x-gateway-backend", backend.label),
            (b"x-gateway-model", self.model.encode()),
            (b"x-gateway-attempts", b"%d" % exchange.attempts),
        )
        if not self._affinity:
            return headers
        log.debug("request %s: backend '%s', affinity %s", exchange.name, backend.name, self._affinity)
        return (*headers, (b"x-gateway-affinity", self._affinity.encode()))

    def place(self, backend: str) -> str:
        """Return where an attempt was made, in words."""
        return f"model {self.model!r} at backend {backend!r}"

    def _taken(self, lease: Lease, group: Group) -> Lease:
        self._tried.append(lease.target)
        self.spent += 1
        self.model = group.model
        self._affinity = lease.affinity
        return lease

    def _is_spent(self, group: Group) -> bool:
        """Tell whether the attempts that the config allows are spent, and the group has had its turn."""
        return self.spent >= self._attempts and not self._is_fresh(group)

    def _is_fresh(self, group: Group) -> bool:
        """Tell whether none of the group's targets was tried."""
        return not any(target in self._tried for target in group.targets)


def pick_quiet(
    targets: Sequence[Target], now: float, tried: Sequence[Target] = (), most: int | None = None
) -> Lease | None:
    """Return a lease on the least busy target where a request would begin at once, as far as is known.

    Where the engine tells of no queue that is empty, it may have fewer than `most` requests from here, else so many.
    No balancer takes note of the choice: what it knows of requests is where they are sent first.
    """
    for target in sorted(targets, key=_in_flight):
        backend = target.backend
        waiting, slots = backend.load.waiting(now), backend.load.slots(now)
        if backend.breaker.open or waiting or (slots and backend.in_flight >= slots):
            continue
        if most is not None and backend.in_flight + (waiting is None) > most:
            continue
        lease = pick((target,), None, now, tried)
        if lease is not None:
            return lease
    return None


def _in_flight(target: Target) -> int:
    return target.backend.in_flight

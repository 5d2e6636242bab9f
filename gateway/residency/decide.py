"""Which engines to start and which to stop: a function of what is known at one moment.

Rules:
- Never over budget: an engine starts only into room that nobody has. What is about to stop has its room until it is
  gone.
- Never under a request: who has requests is drained, which lets them end, and only where somebody waited `PATIENCE`.
- No starvation: who has waited longest is served first, and what is freed for it goes to nobody else. A priority is a
  head start of so many seconds, not more.
- No thrash: an engine stays at least as long as its start took (`stay`), so that at most half of the time is spent on
  loading. One that requests still wait for stays until they have been let in.
- Engines that always run (`on_demand` is false) and pinned ones are never stopped for another's sake, nor because a
  client says so.
- What can never fit, beside those that stay, is refused at once, with the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.residency.memory import ENGINES, RAM, Amounts, change, less, more, most, shortages
from gateway.residency.resident import (
    Action,
    Decision,
    Place,
    Reason,
    Refuse,
    Resident,
    Sleep,
    Start,
    Stop,
    Wake,
)
from gateway.residency.state import AT_REST, LOADING, RUNNING, UNLOADABLE, EngineState

PATIENCE: Final = 5.0
"""Seconds that somebody waits for an engine before one with requests is drained for it."""
SHORTEST_STAY: Final = 1.0
LONGEST_STAY: Final = 60.0
"""Seconds that an engine stays at least, whoever waits for its room: as long as its start took, within these."""


def decide(residents: Sequence[Resident], budget: Amounts, now: float) -> Decision:
    """Return what to do with these engines at `now`.

    `budget` is what all of them may take together; a device that it does not name has no limit.
    """
    return _Round(residents, budget, now).decision()


def stay(resident: Resident) -> float:
    """Return how many seconds an engine stays at least after it became ready."""
    return min(LONGEST_STAY, max(SHORTEST_STAY, resident.load_seconds))


def held(resident: Resident) -> Amounts:
    """Return what an engine takes now."""
    state = resident.state
    if _asleep(resident):
        return resident.asleep or {}
    if resident.to_sleep or resident.from_sleep:
        return _both(resident)
    return _running(resident) if state in RUNNING else {}


def _asleep(resident: Resident) -> bool:
    """Tell whether an engine sleeps, be it that it is about to stop."""
    state = resident.state
    return state is EngineState.SLEEPING or (resident.from_sleep and state is EngineState.DRAINING)


def _running(resident: Resident) -> dict[str, int]:
    return {**(resident.need or {}), ENGINES: 1}


def _both(resident: Resident) -> dict[str, int]:
    """Return what an engine takes on its way between sleep and work: it fills one memory, then empties the other."""
    return most(_running(resident), resident.asleep or {})


def kept(resident: Resident) -> Amounts:
    """Return what an engine will have when it has stopped, or sleeps, which it is about to."""
    return resident.asleep or {} if resident.to_sleep else {}


class _Round:
    """One decision while it is made."""

    def __init__(self, residents: Sequence[Resident], budget: Amounts, now: float) -> None:
        self._all = {resident.name: resident for resident in residents}
        self._budget = budget
        self._now = now
        self._actions: list[Action] = []
        self._due: list[float] = []
        self._stopping = {name for name, each in self._all.items() if each.state is EngineState.DRAINING}
        """Engines whose room will be free soon."""
        self._starting: set[str] = set()
        self._free = less(budget, map(held, residents))
        """What nobody has, and nobody before in line is to have. Below zero: it has been promised."""
        self._promised: dict[str, int] = more(
            dict.fromkeys(budget, 0),
            (change(kept(self._all[name]), held(self._all[name])) for name in self._stopping),
        )
        """What is about to be given back."""

    def decision(self) -> Decision:
        for resident in self._all.values():
            self._end_what_nobody_needs(resident)
        line = [each for each in self._all.values() if each.wanted and each.state in AT_REST]
        for resident in sorted(line, key=self._turn):
            self._serve(resident)
        return Decision(tuple(self._actions), min(self._due, default=None))

    def _turn(self, resident: Resident) -> tuple[bool, float]:
        """Return the order of those who wait: engines that always run, then by how long somebody has waited."""
        since = self._now if resident.wanted_since is None else resident.wanted_since
        return resident.terms.on_demand, since - resident.terms.priority

    def _end_what_nobody_needs(self, resident: Resident) -> None:
        terms = resident.terms
        if not terms.on_demand:
            return
        if resident.unload and not terms.pin and not resident.waiting and resident.state in UNLOADABLE:
            self._stop(resident, Reason.UNLOADED)
            return
        if not resident.idle():
            return
        if resident.state in LOADING and not terms.finish_load:
            self._stop(resident, Reason.UNWANTED)
        elif resident.state is EngineState.READY and not terms.pin and resident.stays is not None:
            due = resident.used_at + resident.stays
            if self._now >= due:
                self._stop(resident, Reason.IDLE)
            else:
                self._due.append(due)

    def _serve(self, resident: Resident) -> None:
        """Start an engine, or make room for it, or say why that cannot be."""
        name = resident.name
        if not resident.terms.on_demand:
            place = max(resident.places, key=self._emptiness, default=None)
            self._start(resident if place is None else _at(resident, place))
            return
        if (refusal := self._excluded(resident)) is not None:
            self._actions.append(Refuse(name, refusal, for_good=True))
            return
        if (refusal := self._impossible(resident)) is not None:
            self._actions.append(Refuse(name, refusal))
            return
        settled = self._settled(resident)
        for each in settled:
            if not self._rivals_of(each) and not shortages(self._more_than_held(each), self._free):
                self._start(each)
                return
        plans = [(each, self._victims(each)) for each in settled]
        possible = [(each, victims) for each, victims in plans if victims is not None]
        chosen, victims = min(possible, key=_cost) if possible else (settled[0], None)
        self._free = less(self._free, [self._more_than_held(chosen)])
        for victim in victims or ():
            self._make_room(victim, chosen)

    def _settled(self, resident: Resident) -> list[Resident]:
        """Return the engine as it would be at each place where it can run at all, that with the most room first."""
        if not resident.places or resident.state is EngineState.SLEEPING:
            return [resident]
        places = sorted(resident.places, key=self._emptiness, reverse=True)
        return [each for place in places if self._impossible(each := _at(resident, place)) is None]

    def _emptiness(self, place: Place) -> int:
        """Return how much is free of the fullest of some GPUs."""
        return min((self._free.get(device, 0) for device in place.need if device != RAM), default=0)

    def _rivals_of(self, resident: Resident) -> list[Resident]:
        """Return who has to go before an engine starts, whatever memory there is."""
        return [each for each in self._present() if self._has_woken(each) and _in_the_way(each, resident)]

    def _start(self, resident: Resident) -> None:
        self._free = less(self._free, [self._more_than_held(resident)])
        self._starting.add(resident.name)
        if resident.state is EngineState.SLEEPING:
            self._actions.append(Wake(resident.name))
        else:
            self._actions.append(Start(resident.name, resident.places[0].gpus if resident.places else None))

    def _victims(self, resident: Resident) -> list[Resident] | None:
        """Return who has to stop for an engine; None where not enough of them may stop yet."""
        need = self._more_than_held(resident)
        must = [each for each in self._rivals_of(resident) if each.name not in self._stopping]
        may = [
            each
            for each in self._present()
            if each.name not in self._stopping and self._may_go(each, resident)
        ]
        if any(each not in may for each in must):
            return None
        victims = list(must)
        for candidate in sorted(may, key=self._worth):
            missing = self._missing(need, [held(each) for each in victims])
            if not missing:
                break
            if candidate not in victims and missing & held(candidate).keys():
                victims.append(candidate)
        if self._missing(need, [held(each) for each in victims]):
            return None
        # A later, larger one may have made an earlier one superfluous.
        for each in list(victims):
            rest = [other for other in victims if other is not each]
            if each not in must and not self._missing(need, [held(other) for other in rest]):
                victims = rest
        return victims

    def _missing(self, need: Amounts, given: Iterable[Amounts]) -> set[str]:
        """Return the devices of which there is not enough, even when all that is promised and `given` is free."""
        left = less(more(more(self._free, [self._promised]), given), [need])
        return {device for device, amount in left.items() if amount < 0}

    def _may_go(self, victim: Resident, for_: Resident) -> bool:
        """Tell whether an engine may be stopped, or drained, for another's sake now; note when it may be."""
        terms = victim.terms
        if victim.name == for_.name or not terms.on_demand or terms.pin or victim.name in self._starting:
            return False
        if victim.state is EngineState.SLEEPING:
            # Even if somebody waits for it: it is behind in line, and would keep what the first one needs for ever.
            return True
        if victim.state is not EngineState.READY or victim.waiting:
            return False
        due = victim.ready_at + stay(victim)
        if victim.busy:
            since = self._now if for_.wanted_since is None else for_.wanted_since
            due = max(due, since + PATIENCE)
        if due > self._now:
            self._due.append(due)
            return False
        return True

    def _has_woken(self, resident: Resident) -> bool:
        """Tell whether an engine does not sleep, or has been woken in this round."""
        return not _asleep(resident) or resident.name in self._starting

    def _worth(self, resident: Resident) -> tuple[bool, int, bool, float, float]:
        """Return what sorts the engines that may go: the least valuable first.

        Those with requests last; then by priority; those that sleep first; the quicker to load and the longer unused.
        """
        asleep = resident.state is EngineState.SLEEPING
        age = max(1.0, self._now - resident.used_at)
        cost = max(SHORTEST_STAY, resident.load_seconds)
        return resident.busy, resident.terms.priority, not asleep, cost / age, -age

    def _make_room(self, victim: Resident, for_: Resident) -> None:
        """Stop an engine for another, or have it sleep where that is enough."""
        asleep = victim.asleep
        if asleep is not None and victim.state is EngineState.READY and not _in_the_way(victim, for_):
            both = change(held(victim), _both(victim))
            extra = {device: amount for device, amount in both.items() if amount}
            if not shortages(extra, self._free) and not self._missing({}, [change(asleep, held(victim))]):
                self._free = less(self._free, [extra])
                self._leave(victim, asleep)
                self._actions.append(Sleep(victim.name, Reason.ROOM, for_.name))
                return
        self._stop(victim, Reason.ROOM, for_.name)

    def _stop(self, victim: Resident, reason: Reason, for_: str = "") -> None:
        self._leave(victim, {})
        self._actions.append(Stop(victim.name, reason, for_))

    def _leave(self, victim: Resident, keeps: Amounts) -> None:
        self._stopping.add(victim.name)
        self._promised = more(self._promised, [change(keeps, held(victim))])

    def _present(self) -> list[Resident]:
        """Return the engines that have memory, and those that have been started in this round."""
        return [
            each
            for each in self._all.values()
            if each.state in RUNNING or each.state is EngineState.SLEEPING or each.name in self._starting
        ]

    def _more_than_held(self, resident: Resident) -> dict[str, int]:
        """Return what an engine takes when it starts, beyond what it has."""
        if resident.state is EngineState.SLEEPING:
            return change(resident.asleep or {}, _both(resident))
        return _running(resident)

    def _staying(self, resident: Resident) -> list[Resident]:
        """Return the other engines that run and stay whatever happens."""
        return [
            each
            for each in self._all.values()
            if each.name != resident.name
            and each.state in RUNNING
            and (each.terms.pin or not each.terms.on_demand)
        ]

    def _excluded(self, resident: Resident) -> str | None:
        """Return why an engine must not run beside those that stay; None where it may."""
        found = next((each.name for each in self._staying(resident) if are_rivals(each, resident)), None)
        return None if found is None else f"'{found}' stays, and the two must not run together"

    def _impossible(self, resident: Resident) -> str | None:
        """Return what an engine lacks beside those that stay; None where it fits."""
        staying = self._staying(resident)
        room = less(self._budget, map(held, staying))
        needs = [{**place.need, ENGINES: 1} for place in resident.places] or [_running(resident)]
        why: list[str] = []
        for need in needs:
            missing = shortages(need, room)
            if not missing:
                return None
            why.append("; ".join(map(str, missing)))
        beside = f" beside {', '.join(repr(each.name) for each in staying)}" if staying else ""
        return "; or ".join(dict.fromkeys(why)) + beside


def _at(resident: Resident, place: Place) -> Resident:
    """Return an engine as it would be on some GPUs."""
    return replace(resident, need=place.need, places=(place,))


def _cost(plan: tuple[Resident, Sequence[Resident]]) -> tuple[bool, int]:
    """Return what making room costs: whether somebody with requests is drained, then how many stop."""
    return any(victim.busy for victim in plan[1]), len(plan[1])


def are_rivals(one: Resident, other: Resident) -> bool:
    """Tell whether the config says that two engines must not run together."""
    return one.name != other.name and (other.name in one.terms.rivals or one.name in other.terms.rivals)


def _in_the_way(running: Resident, other: Resident) -> bool:
    """Tell whether an engine has to go before another one starts, whatever memory there is.

    Where nobody knows what one of the two needs, they do not run together, unless the one that runs stays anyway.
    """
    if running.name == other.name:
        return False
    if are_rivals(running, other):
        return True
    goes = running.terms.on_demand and not running.terms.pin
    return goes and (running.need is None or other.need is None)


def rivals(sets: Sequence[Sequence[str]], groups: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return for each engine which others must not run beside it.

    `sets` are names that may run together: two that are named somewhere, and never in one set, may not. `groups` gives
    engines' groups, of each of which one runs at a time.
    """
    named = {name for names in sets for name in names}
    found: dict[str, set[str]] = {name: set() for name in named | groups.keys()}
    for one in named:
        friends = {name for names in sets if one in names for name in names}
        found[one] |= named - friends
    for one, group in groups.items():
        found[one] |= {other for other, its in groups.items() if its == group and other != one}
    return {name: frozenset(others) for name, others in found.items()}

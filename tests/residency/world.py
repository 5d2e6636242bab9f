"""A world of engines and requests in virtual time, in which every decision is carried out.

Rules:
- The world does what it is told, checks what must hold after every step, and decides nothing itself.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gateway.residency.decide import PATIENCE, decide, held, stay
from gateway.residency.memory import Amounts
from gateway.residency.resident import Reason, Refuse, Resident, Sleep, Start, Stop, Wake
from gateway.residency.state import LOADING, RUNNING, UNLOADABLE, EngineState


@dataclass
class Waiter:
    """A request."""

    model: str
    came: float
    lasts: float
    gives_up: float


@dataclass
class Life:
    """An engine as it really is."""

    resident: Resident
    load: float
    """Seconds that its start takes."""
    stop: float
    fails: float = 0.0
    """How often a start of it fails."""
    running: int = 0
    waiting: list[Waiter] = field(default_factory=list)
    since: float = 0.0
    to_sleep: bool = False
    loads: int = 0
    epoch: int = 0
    """Another number for each change of state, so that what was due for an earlier one is not done."""


class World:
    """Engines, their requests, and a clock."""

    def __init__(self, engines: Sequence[Life], budget: Amounts, rng: Random) -> None:
        self.now = 0.0
        self.engines = {life.resident.name: life for life in engines}
        self.budget = budget
        self.rng = rng
        self.events = 0
        self.served: list[float] = []
        self.gave_up = 0
        self.failed = 0
        self.refused: list[str] = []
        self.keeps: Sequence[float | None] = ()
        """What requests may say of how long their engine stays, at their end."""
        self.unloaded = 0
        self.evictions = 0
        self.unwanted = 0
        self._due: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._order = itertools.count()
        self._looks: float | None = None
        self._changed = False
        """Whether anything has changed that a decision looks at."""

    def at(self, when: float, what: str, *arguments: object) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._due, (when, next(self._order), what, arguments))

    def ask(self, when: float, model: str, lasts: float, patience: float = 1e9) -> None:
        """Have a request come."""
        self.at(when, "_came", Waiter(model, when, lasts, when + patience))

    def run(self, until: float = float("inf"), most: int = 10**9) -> None:
        """Let things happen until a time, or until so many have happened, or nothing more does."""
        while self._due and self._due[0][0] <= until and self.events < most:
            self.now, _, what, arguments = heapq.heappop(self._due)
            getattr(self, what)(*arguments)
            self.events += 1
            if self._changed:
                self._changed = False
                self._decide()
            self._check()

    # what happens

    def _came(self, waiter: Waiter) -> None:
        life = self.engines[waiter.model]
        if life.resident.state is EngineState.READY:
            self._serve(life, waiter)
            return
        life.waiting.append(waiter)
        self._changed = True
        if life.resident.wanted_since is None:
            self._set(life, wanted_since=self.now)
        if waiter.gives_up < 1e9:
            self.at(waiter.gives_up, "_left", waiter)

    def _unload(self, name: str) -> None:
        life = self.engines[name]
        if life.resident.state in UNLOADABLE:
            self._set(life, keep=0.0, unload=True)

    def _left(self, waiter: Waiter) -> None:
        life = self.engines[waiter.model]
        if waiter in life.waiting:
            life.waiting.remove(waiter)
            self._changed = True
            self.gave_up += 1
            if not life.waiting:
                self._set(life, wanted_since=None)

    def _serve(self, life: Life, waiter: Waiter) -> None:
        self.served.append(self.now - waiter.came)
        life.running += 1
        self.at(self.now + waiter.lasts, "_over", life)

    def _over(self, life: Life) -> None:
        life.running -= 1
        life.resident = replace(life.resident, used_at=self.now)
        if self.keeps:
            life.resident = replace(life.resident, keep=self.rng.choice(self.keeps))
            self._changed = True
        self._changed = self._changed or not life.running
        if life.resident.state is EngineState.DRAINING and not life.running:
            self._gone_soon(life)

    def _gone_soon(self, life: Life) -> None:
        life.epoch += 1
        self.at(self.now + life.stop, "_gone", life, life.epoch)

    def _gone(self, life: Life, epoch: int) -> None:
        if epoch == life.epoch:
            state = EngineState.SLEEPING if life.to_sleep else EngineState.STOPPED
            self._set(life, state=state, to_sleep=False, from_sleep=False)

    def _ready(self, life: Life, epoch: int) -> None:
        if epoch != life.epoch:
            return
        if self.rng.random() < life.fails:
            self.failed += len(life.waiting)
            life.waiting.clear()
            self._set(life, state=EngineState.FAILED, wanted_since=None, from_sleep=False)
            return
        self._set(
            life,
            state=EngineState.READY,
            ready_at=self.now,
            used_at=self.now,
            wanted_since=None,
            from_sleep=False,
            load_seconds=self.now - life.since,
        )
        waiting, life.waiting = life.waiting, []
        for waiter in waiting:
            self._serve(life, waiter)

    def _look(self, at: float) -> None:
        self._changed = True
        if self._looks == at:
            self._looks = None

    # what is decided

    def residents(self) -> list[Resident]:
        """Return the engines as a decision sees them."""
        return [
            replace(life.resident, busy=life.running > 0, waiting=len(life.waiting))
            for life in self.engines.values()
        ]

    def _decide(self) -> None:
        residents = self.residents()
        decision = decide(residents, self.budget, self.now)
        seen = {resident.name: resident for resident in residents}
        for action in decision.actions:
            self._carry_out(self.engines[action.name], seen[action.name], action)
        if decision.again is not None and (self._looks is None or decision.again < self._looks):
            self._looks = decision.again
            self.at(decision.again, "_look", decision.again)

    def _carry_out(self, life: Life, seen: Resident, action: object) -> None:
        if isinstance(action, Start | Wake):
            assert life.resident.state is not EngineState.READY
            life.loads += 1
            life.since = self.now
            life.epoch += 1
            self._set(life, state=EngineState.STARTING, from_sleep=isinstance(action, Wake))
            quick = 0.1 if isinstance(action, Wake) else 1.0
            self.at(self.now + life.load * quick, "_ready", life, life.epoch)
        elif isinstance(action, Refuse):
            self.refused.append(action.why)
            life.waiting.clear()
            self._set(life, wanted_since=None)
        else:
            assert isinstance(action, Stop | Sleep)
            self._check_victim(life, seen, action)
            life.to_sleep = isinstance(action, Sleep)
            slept = seen.state is EngineState.SLEEPING or seen.from_sleep
            self._set(life, state=EngineState.DRAINING, from_sleep=slept, to_sleep=life.to_sleep)
            if not life.running:
                self._gone_soon(life)

    def _set(self, life: Life, **changes: object) -> None:
        self._changed = True
        life.resident = replace(life.resident, **changes)  # type: ignore[arg-type]
        if life.resident.state in (EngineState.STOPPED, EngineState.FAILED):
            life.resident = replace(life.resident, keep=None)
        if life.resident.state not in UNLOADABLE:
            life.resident = replace(life.resident, unload=False)

    # what must hold

    def _check_victim(self, life: Life, seen: Resident, action: Stop | Sleep) -> None:
        terms = seen.terms
        assert terms.on_demand
        assert seen.state is not EngineState.DRAINING
        if action.reason is Reason.UNWANTED:
            assert seen.state in LOADING
            assert not seen.waiting
            self.unwanted += 1
        if action.reason is Reason.IDLE:
            assert not seen.busy
            assert seen.stays is not None
            assert self.now - seen.used_at >= seen.stays - 1e-6
        if action.reason is Reason.UNLOADED:
            self.unloaded += 1
            assert seen.unload
            assert not terms.pin
            assert not seen.waiting
        if action.reason is Reason.ROOM:
            self.evictions += 1
            assert not terms.pin
            if seen.state is EngineState.READY:
                assert not seen.waiting
                assert self.now >= seen.ready_at + stay(seen)
            if seen.busy:
                since = self.engines[action.for_].resident.wanted_since
                assert since is not None
                assert self.now >= since + PATIENCE

    def _check(self) -> None:
        taken: dict[str, int] = {}
        everybody = [life.resident for life in self.engines.values()]
        awake = [each for each in everybody if not (each.from_sleep and each.state is EngineState.DRAINING)]
        running = [each for each in awake if each.state in RUNNING]
        for life in self.engines.values():
            for device, amount in held(life.resident).items():
                taken[device] = taken.get(device, 0) + amount
            assert not life.running or life.resident.state in (EngineState.READY, EngineState.DRAINING)
        for device, most in self.budget.items():
            assert taken.get(device, 0) <= most, f"{device} at {self.now}"
        names = {resident.name for resident in running}
        for resident in running:
            assert not resident.terms.rivals & names - {resident.name}


def loads(world: World) -> Mapping[str, int]:
    """Return how often each engine was loaded."""
    return {name: life.loads for name, life in world.engines.items()}

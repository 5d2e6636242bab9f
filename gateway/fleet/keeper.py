"""Which of the launched engines run: what is known is told to `gateway.residency.decide`, what it decides is done.

Rules:
- Only the process that launches has a keeper. The others tell it how many of their requests wait for which engine.
- What runs on demand is decided once the memory there is has been looked at. What always runs starts before.
- It looks when something changes, when something is due, and every so often for what nobody tells: whether an engine is
  in use, and what it takes of the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from backends.base import LaunchOptions
from backends.facts.residing import Residing
from gateway.config.schema import Config
from gateway.config.server import Engines
from gateway.fleet.kept import Kept, terms_of
from gateway.fleet.needs import Needs
from gateway.fleet.remembering import Remembering
from gateway.fleet.room import Room
from gateway.fleet.supervise import Supervisor
from gateway.machine.machine import Machine
from gateway.residency.decide import decide, rivals
from gateway.residency.memory import ENGINES, RAM, Amounts, shortages
from gateway.residency.resident import Action, Reason, Refuse, Resident, Sleep, Start, Stop, Wake
from gateway.residency.state import AT_REST, LOADING, UNLOADABLE, EngineState
from gateway.telemetry.metrics import Metrics

log = logging.getLogger("gateway.fleet")

LOOK = 1.0
"""Seconds between two looks at the use of engines that run on demand."""
QUICK = 0.1
"""The same while somebody waits for an engine: the one before may be done any moment."""

_WORDS: Mapping[Reason, str] = {
    Reason.IDLE: "nobody has used it for long",
    Reason.ROOM: "it makes room for another engine",
    Reason.UNWANTED: "nobody waits for it any more",
    Reason.UNLOADED: "a client has unloaded it",
    Reason.ORDERED: "an operator has stopped it",
}


class Use(NamedTuple):
    """How a backend is used, by all processes."""

    times: int
    """How often it went from no request to one."""
    requests: int
    """Requests that run there."""


Uses = Mapping[str, Use]


class Keeper:
    """What decides of the launched engines of one gateway."""

    def __init__(
        self,
        metrics: Metrics,
        used: Callable[[], Awaitable[Uses]],
    ) -> None:
        """Decide nothing before `run`. `used` tells how all processes use each backend."""
        self.room = Room()
        """The memory there is."""
        self.remembering: Remembering | None = None
        """What knows what engines took in earlier runs of the gateway; None: nobody does."""
        self._metrics = metrics
        self._used = used
        self._engines: Engines = Engines()
        self._kept: dict[str, Kept] = {}
        self._leaving: list[Kept] = []
        """Engines of backends that have left the config, until they have ended."""
        self._wants: dict[str, dict[Any, int]] = {}
        """How many requests wait for an engine, by the process they wait in."""
        self._since: dict[str, float] = {}
        """Since when somebody has waited for an engine without a break."""
        self._woken = asyncio.Event()

    @property
    def machine(self) -> Machine | None:
        """What tells of the memory there is; None: nobody does, and memory has no limit."""
        return self.room.machine

    @machine.setter
    def machine(self, machine: Machine | None) -> None:
        self.room = Room(machine)

    def apply(self, config: Config, supervisors: Mapping[str, Supervisor]) -> None:
        """Decide from now on as a config says, about these engines."""
        self._engines = config.server.engines
        groups = {}
        for name, settings in config.backends.items():
            if isinstance(settings.launch, Residing) and settings.launch.group is not None:
                groups[name] = settings.launch.group
        exclusive = rivals(config.server.engines.together, groups)
        before, self._kept = self._kept, {}
        for name, supervisor in supervisors.items():
            launch, known = config.backends[name].launch, before.get(name)
            terms = terms_of(launch, config.defaults.idle, exclusive.get(name, frozenset()))
            needs = self._needs(name, launch, None if known is None else known.needs)
            self._kept[name] = Kept(supervisor, terms, needs, known)
            supervisor.life.on_fail = partial(self._told, name)
        self._leaving += [
            each for name, each in before.items() if each.supervisor is not supervisors.get(name)
        ]
        self._woken.set()

    def _told(self, name: str) -> None:
        """Take note that those who wait for an engine are told that it does not come. Who comes later tries anew."""
        self._since.pop(name, None)

    def _needs(self, name: str, launch: LaunchOptions | None, before: Needs | None) -> Needs:
        """Return what is known of an engine's memory, now and from before."""
        assert launch is not None
        needs = Needs(name, launch, before)
        if self.remembering is not None:
            self.remembering.tell(needs)
        return needs

    def want(self, source: Any, name: str, waiting: int) -> None:
        """Take note of how many requests of one process wait for an engine now."""
        before = self._waiting(name)
        self._wants.setdefault(name, {})[source] = waiting
        now = self._waiting(name)
        if now > before:
            self._since.setdefault(name, asyncio.get_running_loop().time())
        elif not now:
            self._since.pop(name, None)
            del self._wants[name]
        if kept := self._kept.get(name):
            kept.supervisor.life.used_at = asyncio.get_running_loop().time()
        self._woken.set()

    def keep(self, name: str, seconds: float, at_once: bool) -> None:
        """Have an engine that runs on demand stay so long without a request, until another request says otherwise.

        It counts until the engine has stopped. `at_once`: it stops once the requests under way have ended.
        """
        if kept := self._kept.get(name):
            kept.keep = seconds
            kept.unload = at_once and kept.supervisor.life.state in UNLOADABLE
            self._woken.set()

    def forget(self, source: Any) -> None:
        """Take note that a process is gone, with all its requests."""
        for name in [name for name, waiting in self._wants.items() if source in waiting]:
            self.want(source, name, 0)

    def order(self, name: str, run: bool) -> None:
        """Have an engine start, or stop, because an operator says so."""
        kept = self._kept.get(name)
        if kept is None:
            return
        life = kept.supervisor.life
        if run:
            life.halted, life.ordered = False, life.state is not EngineState.READY
        else:
            life.ordered, life.halted = False, not kept.terms.on_demand
            if life.state in LOADING or self._waiting(name):
                kept.supervisor.fail(_WORDS[Reason.ORDERED])
            self._since.pop(name, None)
            if life.state not in (EngineState.STOPPED, EngineState.FAILED):
                self._metrics.lives.stops.cell(name, Reason.ORDERED).value += 1
            kept.supervisor.stop(_WORDS[Reason.ORDERED])
        self._woken.set()

    async def run(self) -> None:
        """Decide and act, until cancelled."""
        if self.remembering is None:
            await self._decide()
        else:
            await self.remembering.recall()
            for kept in self._kept.values():
                self.remembering.tell(kept.needs)
            try:
                await self._decide()
            finally:
                await self.remembering.end([kept.needs for kept in self._kept.values()])

    async def _decide(self) -> None:
        told = False
        while True:
            self._woken.clear()
            again = None
            try:
                again = await self._look()
            except Exception:
                if not told:
                    log.exception(
                        "which engines run cannot be decided, which is a bug; it is tried again and again"
                    )
                told = True
            pause = None
            if any(kept.terms.on_demand or kept.needs.chooses for kept in self._kept.values()):
                pause = QUICK if self._wants or not self._knows else LOOK
                if again is not None:
                    pause = min(pause, max(0.0, again - asyncio.get_running_loop().time()))
            await self._changed(pause)

    @property
    def _knows(self) -> bool:
        """Whether the memory there is has been looked at."""
        return self.machine is None or self.machine.looked.is_set()

    def wake(self) -> None:
        """Look soon: something has changed."""
        self._woken.set()

    async def _changed(self, pause: float | None) -> None:
        """Wait until something has changed, at most so many seconds; None: without a limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()

    async def _look(self) -> float | None:
        """Decide once, and do what is decided. Return when to look again at the latest."""
        waited = {name for name in self._kept if self._waiting(name)}
        uses = await self._used() if any(kept.terms.on_demand for kept in self._kept.values()) else {}
        for kept in [*self._kept.values()]:
            if kept.supervisor.life.adopted:
                kept.needs.gpus = kept.supervisor.gpus
            await kept.needs.reckon(self.machine)
        now = asyncio.get_running_loop().time()
        self._measure()
        residents = [
            self._resident(name, kept, uses.get(name), now, finish=name in waited)
            for name, kept in self._kept.items()
            if self._knows or not (kept.terms.on_demand or kept.needs.chooses)
        ]
        self._leaving = [kept for kept in self._leaving if kept.supervisor.has_process]
        residents += [kept.leaving(place) for place, kept in enumerate(self._leaving)]
        decision = decide(residents, self._budget(), now)
        for action in decision.actions:
            self._do(action)
        return decision.again

    def _budget(self) -> Amounts:
        """Return what all launched engines may take together now."""
        looked = -math.inf if self.machine is None else self.machine.looked_at
        held: dict[str, Amounts] = {}
        for name, kept in self._kept.items():
            life = kept.supervisor.life
            if life.state is EngineState.SLEEPING:
                held[name] = kept.needs.asleep() or {}
            elif life.state is EngineState.READY and life.ready_at <= looked:
                held[name] = kept.amounts() or {}
        return self.room.budget(self._engines, held)

    def _resident(self, name: str, kept: Kept, use: Use | None, now: float, finish: bool) -> Resident:
        """Return an engine as decisions see it.

        `finish`: somebody waited for it when the look began. If nobody does any more, its first request may be there,
        which `use` is too old to tell.
        """
        life = kept.supervisor.life
        used = use is not None and (use.requests > 0 or use.times != kept.times)
        kept.reached = life.state in LOADING and (kept.reached or used)
        if use is not None and used:
            kept.times, life.used_at = use.times, now
        if life.state in AT_REST and life.state is not EngineState.SLEEPING:
            kept.keep = None
        if life.state not in UNLOADABLE:
            kept.unload = False
        since = self._since.get(name)
        if since is None and life.ordered:
            since = life.used_at
        return Resident(
            name,
            replace(kept.terms, finish_load=True) if life.ordered or kept.reached or finish else kept.terms,
            kept.state,
            kept.amounts(),
            kept.needs.places(self.room.gone()),
            kept.needs.asleep(),
            life.from_sleep,
            life.to_sleep,
            busy=use is not None and use.requests > 0,
            waiting=self._waiting(name),
            wanted_since=since,
            used_at=life.used_at,
            ready_at=life.ready_at,
            load_seconds=life.load_seconds,
            keep=kept.keep,
            unload=kept.unload,
            halted=life.halted,
        )

    def _do(self, action: Action) -> None:
        kept = self._kept[action.name]
        if isinstance(action, Start):
            kept.doubted_at = None
            kept.needs.gpus = action.gpus
            kept.supervisor.start(action.gpus)
        elif isinstance(action, Wake):
            kept.supervisor.wake()
        elif isinstance(action, Refuse):
            if action.for_good or self._is_sure(kept):
                log.error("backend '%s' cannot run: %s", action.name, action.why)
                kept.supervisor.fail(action.why)
        elif isinstance(action, Stop | Sleep):
            why = f"it makes room for '{action.for_}'" if action.for_ else _WORDS[action.reason]
            asleep = isinstance(action, Sleep)
            log.info("backend '%s' %s: %s", action.name, "falls asleep" if asleep else "stops", why)
            self._metrics.lives.stops.cell(action.name, action.reason).value += 1
            (kept.supervisor.sleep if asleep else kept.supervisor.stop)(why)

    def _is_sure(self, kept: Kept) -> bool:
        """Tell whether an engine that does not fit is to be refused: it never fits, or did not at an earlier look, too.

        Memory of an engine that has just ended looks like another program's until the machine is looked at again.
        """
        looked = -math.inf if self.machine is None else self.machine.looked_at
        most = self.room.limits(self._engines)
        needs = [place.need for place in kept.needs.places()] or [kept.needs.amounts() or {}]
        doubted, kept.doubted_at = kept.doubted_at, looked
        return all(shortages(need, most) for need in needs) or (doubted is not None and doubted < looked)

    def _waiting(self, name: str) -> int:
        return sum(self._wants.get(name, {}).values())

    def show(self) -> None:
        """Set the gauges that are looked at for each scrape."""
        lives = self._metrics.lives
        for name, kept in self._kept.items():
            for state in EngineState:
                lives.state.cell(name, state).value = float(state is kept.supervisor.life.state)
            lives.waiting.cell(name).value = self._waiting(name)
            for device, amount in (kept.amounts() or {}).items():
                lives.need.cell(name, device).value = amount
        for device, amount in self._budget().items() if self._kept else ():
            if device != ENGINES:
                lives.budget.cell(device).value = amount

    def _measure(self) -> None:
        """Take note of what each engine took at the machine's last look, unless it was still loading then."""
        if self.machine is None:
            return
        for name, use in self.machine.uses().items():
            kept = self._kept.get(name)
            if kept is None or kept.supervisor.life.state is not EngineState.READY:
                continue
            if kept.supervisor.life.ready_at <= self.machine.looked_at:
                taken = {gpu: held for gpu, held in use.gpus.items() if held is not None}
                kept.of_process.take({RAM: use.memory, **taken}, kept.supervisor.life.began_at)
        if self.remembering is not None:
            runs: dict[bool, list[Needs]] = {True: [], False: []}
            for kept in self._kept.values():
                runs[kept.supervisor.life.state is EngineState.READY].append(kept.needs)
            self.remembering.note(runs[True], runs[False], asyncio.get_running_loop().time())


class Here:
    """What the requests of the process that launches want of its engines; see `gateway.fleet.residence.Wishes`."""

    def __init__(self, keeper: Keeper | None) -> None:
        """Tell a keeper; None: nobody decides."""
        self._keeper = keeper

    def want(self, name: str, waiting: int) -> None:
        if self._keeper is not None:
            self._keeper.want(self, name, waiting)

    def keep(self, name: str, seconds: float, at_once: bool) -> None:
        if self._keeper is not None:
            self._keeper.keep(name, seconds, at_once)

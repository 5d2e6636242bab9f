"""A launched backend: ties the engine's process to the backend that requests see.

Rules:
- The backend has connections only while the process runs; each start has its own port and thus its own connections.
- An engine that always runs counts as starting from the moment its process has ended; where it ends again and again, as
  down. One that runs on demand is started anew only when it is asked for again.
- An engine that is not ready within its start timeout is stopped, like one that died.
- An engine that stops takes no new requests first, and those under way finish.
- When its launch options change, requests under way at the running engine get some time to finish before it is
  replaced. The new engine starts when the old one has ended: both may not fit into the machine.
- Whether it runs is decided elsewhere (`gateway.fleet.keeper`); here that is done.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from backends.base import Action, Failure, Health, Launch
from backends.facts.residing import Residing, chooses_gpus
from gateway.config.backend import BackendConfig
from gateway.fleet.backend import Backend
from gateway.fleet.follow import take_over
from gateway.fleet.launcher import Process, ProcessState
from gateway.fleet.life import Life
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.pool import Pool
from gateway.fleet.residence import Residence
from gateway.fleet.warming import warm_up
from gateway.residency.state import LOADING, EngineState
from gateway.telemetry.metrics import Metrics
from gateway.wire.ask import ask

DOZE = 120.0
"""Seconds that falling asleep or waking up may take: tens of gigabytes are copied."""

log = logging.getLogger("gateway.fleet")

WARMS_UP, WAKES_UP, SLEEPS = "it warms up", "it wakes up", "it sleeps until it is asked for"
ENDED, CHANGED = "its process has ended", "its launch options have changed"


class Supervisor:
    """Runs the engine of one launched backend while it is to run."""

    def __init__(
        self,
        backend: Backend,
        settings: BackendConfig,
        pool: Pool,
        metrics: Metrics,
        rng: Random,
        on_location: OnLocation,
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        """Start nothing yet.

        `on_location` is told when the engine comes or goes. `drained` waits until no request runs at the backend, or
        until they have had their time.
        """
        self._backend = backend
        self._settings = settings
        self._pool = pool
        self._on_location = on_location
        self._drained = drained
        self._outdated = asyncio.Event()
        """Set while the engine that runs was started with other settings than those of now."""
        self._retired = False
        self._runs = asyncio.Event()
        """Set while the engine is to run."""
        self._leaving: str | None = None
        """Why the engine that runs is to stop; None if it is not."""
        self._dozes: Action | None = None
        """What the engine is to be told to do: sleep, or wake."""
        self.life = Life()
        self._lives = metrics.lives
        self._restarts = metrics.backends.restarts.cell(backend.name, backend.engine.name)
        self.process = Process(
            backend.name,
            self._command,
            self._on_state,
            self._crash_reason,
            rng,
            self._log_level,
            self._new_key,
        )
        self.process.arrivals.own_key = self._own_key
        self._settled = False

    def _own_key(self) -> str | None:
        key = self._settings.api_key
        return None if key is None else key.get_secret_value()

    async def run(self) -> None:
        """Have the engine run whenever it is to, until cancelled; then stop it, or leave it to the next gateway."""
        arrivals = self.process.arrivals
        try:
            found = await arrivals.settle()
            self._settled = True
            self._pool.announce()
            if found and not self._runs.is_set():
                # It runs already, and has its memory, whether anybody waits for it or not.
                self.life.ordered = True
                self.start(self.gpus)
            while not self._retired:
                await self._runs.wait()
                await self._run()
        finally:
            self._settled = True
            await arrivals.forgo(end=self._retired)

    async def _run(self) -> None:
        """Start the engine, and start it again whenever it dies, if it always runs; return when it has stopped."""
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(work())
                for work in (self._hurry, self._renew, self._leave, self._follow, self._doze)
            ]
            await self.process.run(once=lambda: self._on_demand)
            for task in beside:
                task.cancel()

    @property
    def runs(self) -> bool:
        """Whether the engine is to run; it may have failed, and be about to be started again."""
        return self._runs.is_set()

    @property
    def settled(self) -> bool:
        """Whether nothing runs that a gateway before may have left, but what was taken over."""
        return self._settled or self.process.arrivals.adopting is None

    @property
    def has_process(self) -> bool:
        """Whether there is a process, or one is being started, or what it has left is being cleared away."""
        return self.process.state not in (ProcessState.FAILED, ProcessState.STOPPED)

    @property
    def outdated(self) -> bool:
        """Whether the process that runs was started with other options than those of now."""
        return self._outdated.is_set()

    @property
    def gpus(self) -> tuple[int, ...] | None:
        """The GPUs that were chosen for it; None where its config names them, or none were."""
        return self.process.arrivals.gpus if chooses_gpus(self._settings.launch) else None

    @property
    def _residence(self) -> Residence:
        residence = self._backend.residence
        assert residence is not None
        return residence

    @property
    def _on_demand(self) -> bool:
        return self._residence.on_demand

    def start(self, gpus: tuple[int, ...] | None = None) -> None:
        """Start the engine, which does not run, on these GPUs; None: those that its config names."""
        self.process.arrivals.gpus, self._dozes = gpus, None
        self.life.begin(asyncio.get_running_loop().time())
        self._leaving = None
        self._become(EngineState.STARTING, "starting")
        self._runs.set()

    def stop(self, reason: str) -> None:
        """Stop the engine because of `reason`, once its requests have finished; at once while it starts."""
        if self._leaving is not None or not self._runs.is_set():
            return
        self._leaving, self._dozes = reason, None
        self.life.from_sleep = self.life.from_sleep or self.life.state is EngineState.SLEEPING
        self.life.to_sleep = False
        self._become(EngineState.DRAINING, reason)

    def sleep(self, reason: str) -> None:
        """Have an engine that is ready sleep because of `reason`, once its requests have finished."""
        if self._leaving is None and self.life.state is EngineState.READY:
            self._dozes, self.life.to_sleep = Action.SLEEP, True
            self._become(EngineState.DRAINING, reason)

    def wake(self) -> None:
        """Wake an engine that sleeps."""
        if self._leaving is None and self.life.state is EngineState.SLEEPING:
            self._dozes, self.life.from_sleep = Action.WAKE, True
            self.life.begin(asyncio.get_running_loop().time())
            self._become(EngineState.STARTING, WAKES_UP)

    def fail(self, why: str) -> None:
        """Tell those who wait for the engine that it does not come, and why."""
        self.life.fail()
        self._backend.trouble(why)
        self._tell(why)

    def reconsider(self) -> None:
        """Take note that the config may say otherwise now when the engine runs."""
        if self._on_demand and self.process.state is ProcessState.FAILED:
            self.process.end()  # it would come back by itself

    def relaunch(self, settings: BackendConfig) -> None:
        """Replace the engine, if it runs, by one launched with these settings once its requests have finished."""
        self._settings = settings
        if self._runs.is_set():
            self._outdated.set()
        else:
            self._tell(CHANGED)

    def retire(self) -> None:
        """Start the engine no more, should it die; end it now if it has not even started."""
        self._retired = True
        self._runs.set()
        if self.process.state is not ProcessState.RUNNING:
            self.process.end()

    def _command(self, host: str, port: int) -> Launch:
        self._outdated.clear()
        options = self._settings.launch
        assert options is not None
        if self.gpus is not None:
            options = options.model_copy(update={"gpus": self.gpus})
        return options.launch(host, port)

    def _new_key(self) -> str:
        """Make the key of a start. Where the config has one, the engine is told that: others may use it who know it."""
        return self._own_key() or secrets.token_urlsafe()

    def _crash_reason(self, lines: Sequence[str]) -> str | None:
        return self._backend.engine.crash_reason(lines)

    def _log_level(self, line: str) -> int:
        return self._backend.engine.log_level(line)

    def _on_state(self, state: ProcessState) -> None:
        if state is ProcessState.STARTING:
            return
        process = self.process
        leaving = self._leaving
        if state is ProcessState.STOPPED or (state is ProcessState.FAILED and self._on_demand):
            # Before anybody is told: whoever is may start it anew at once.
            self._runs.clear()
            self._outdated.clear()
            self._leaving = None
        if self._retired:
            # Nobody needs to know but those who still use its connections.
            process.end()
            self._backend.locate(None)
            return
        self._restarts.value = process.restarts
        if state is ProcessState.RUNNING:
            if self.life.state not in LOADING:
                # One that always runs has died, and comes again.
                self.life.begin(asyncio.get_running_loop().time())
            self.life.arrive(process.adopted, process.load_seconds)
            self._become(EngineState.STARTING, "starting")
        elif leaving is not None:
            if self._leaving is None:
                self._become(EngineState.STOPPED, leaving)
        elif state is ProcessState.ENDED and self._on_demand:
            # What it printed last is still being read: those who wait are told why it failed.
            self._tell(ENDED)
        elif state in (ProcessState.ENDED, ProcessState.FAILED):
            failed = state is ProcessState.FAILED
            self._become(EngineState.FAILED, (failed and process.last_error) or ENDED)

    def _become(self, state: EngineState, reason: str) -> None:
        """Be in a state."""
        life, now = self.life, asyncio.get_running_loop().time()
        if life.state in LOADING and state not in LOADING:
            self._lives.over(self._backend.name, life.result(state), now - life.began_at)
        if life.become(state, now):
            self.process.loaded(life.load_seconds)
        if state is EngineState.FAILED and self._on_demand:
            life.fail()
        held = ""
        if state is EngineState.DRAINING:
            held = reason
        elif state is EngineState.SLEEPING:
            held = SLEEPS
        elif state in LOADING and life.from_sleep:
            held = WAKES_UP
        elif state in LOADING and self._warm:
            held = WARMS_UP
        life.held = held
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Tell all processes where the engine is, and how."""
        process, life, backend = self.process, self.life, self._backend
        running = process.state is ProcessState.RUNNING
        location = Location(
            backend.name,
            process.url if running else None,
            reason,
            process.key if running else None,
            process.coming or life.state in LOADING or life.state is EngineState.DRAINING,
            life.state,
            life.held,
            life.failures,
            life.halted,
            life.load_seconds,
        )
        take_over(backend, location)
        self._on_location(location)
        self._pool.announce()

    @property
    def _warm(self) -> tuple[str, ...]:
        launch, was_ready = self._settings.launch, self.life.adopted and self.process.load_seconds > 0
        return launch.warm if isinstance(launch, Residing) and not was_ready else ()

    async def _leave(self) -> None:
        """End the engine when it is to stop: after its requests, or at once if it has taken none yet."""
        while self._leaving is None:
            await self._pool.change()
        if self.life.served:
            await self._drained()
        self.process.end()

    async def _doze(self) -> None:
        """Have the engine sleep once its requests have ended, and wake it, whenever that was decided."""
        while True:
            if self._dozes is Action.SLEEP:
                await self._drained()
                if await self._does(Action.SLEEP):
                    self._become(EngineState.SLEEPING, SLEEPS)
                elif self._leaving is None:
                    self.stop("it does not fall asleep")
            elif self._dozes is Action.WAKE:
                if await self._does(Action.WAKE):
                    self.life.held = ""
                    self._tell(WAKES_UP)
                elif self._leaving is None:
                    self.process.kill("it does not wake up")
            await self._pool.change()

    async def _does(self, action: Action) -> bool:
        """Tell the engine to do something. Return whether it has, and whether that is still wanted then."""
        upstream, call = self._backend.upstream, self._backend.engine.action(action, {})
        answer = None if upstream is None else await ask(upstream, call, DOZE)
        wanted, self._dozes = self._dozes is action, None
        return wanted and answer is not None and not isinstance(answer, Failure) and answer[0] == 200

    async def _follow(self) -> None:
        """Take the engine through its start: it answers, warms up, and is ready."""
        backend = self._backend
        while True:
            if self.life.state in LOADING and self._leaving is None:
                if self.life.held == WARMS_UP and self._residence.answers and backend.upstream is not None:
                    self._become(EngineState.WARMING, WARMS_UP)
                    await warm_up(backend, self._warm)
                    if self.life.state is EngineState.WARMING:
                        self.life.held = ""
                        self._tell("it is about to be ready")
                elif backend.health is Health.READY:
                    self._become(EngineState.READY, "")
                elif backend.health is Health.ASLEEP and self.life.adopted:
                    # One that always runs sleeps by an operator's order, and is never woken by the gateway.
                    self._become(EngineState.SLEEPING if self._on_demand else EngineState.READY, SLEEPS)
            await self._pool.change()

    async def _hurry(self) -> None:
        """End an engine that takes longer to become ready than it may, be it the first time or once more."""
        loop = asyncio.get_running_loop()
        while True:
            deadline = self.process.start_deadline
            replaced = self._outdated.is_set() or self._retired
            if not self._due:
                self.process.put_off()
            elif deadline is not None and loop.time() > deadline and not replaced:
                self.process.kill("it was not ready in time (start_timeout)")
            try:
                async with asyncio.timeout(1.0):
                    await self._pool.change()
            except TimeoutError:
                pass

    @property
    def _due(self) -> bool:
        """Whether the engine is not ready and ought to become so. What is done to it has time limits of its own."""
        state, held = self.life.state, self.life.held
        if self._backend.health in (Health.READY, Health.ASLEEP) or held == WAKES_UP:
            return False
        return state in (EngineState.STARTING, EngineState.READY) or (state in LOADING and not held)

    async def _renew(self) -> None:
        """Replace the engine whenever its settings have changed. What has to find room first stops, and starts then."""
        while True:
            await self._outdated.wait()
            if self._on_demand or self.gpus is not None:
                if self._leaving is None:
                    self.life.ordered = self.life.state is not EngineState.SLEEPING
                self.stop(CHANGED)
                return
            if self.process.state is ProcessState.RUNNING:
                await self._drained()
            if self._outdated.is_set():
                self.process.renew()
                self._outdated.clear()

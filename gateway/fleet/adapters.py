"""The LoRA adapters that the config declares, at the engines that have them: loaded when a request needs one.

Rules:
- One event loop, one writer. Each process has its own view of what engines have loaded, and learns of what others did
  by what engines answer: an adapter that is there already is loaded; one that is not there after all is loaded anew.
- What is loaded where is decided in `gateway.residency.adapters`. Here it is carried out, one task for each load.
- An engine that may have lost its memory has no adapters.
- An engine that has its adapters from its start on is asked for them once it is up, and again where it may have started
  anew. Nothing is loaded there and nothing makes room: requests choose.
- A load that fails fails everybody who waits for it, with the engine's reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from backends.base import Action, Failure, Kind
from backends.dialect.selection import Selection
from gateway.errors import GatewayError, Own
from gateway.fleet.backend import Backend
from gateway.residency.adapters import Engine, Held, decide
from gateway.telemetry.of_adapters import AdapterMetrics
from gateway.wire.ask import ask

log = logging.getLogger("gateway.fleet")

LOAD: Final = 600.0
"""Seconds that an engine may take to load an adapter, or to unload one: some do that when its requests are over."""
LISTING: Final = 10.0
"""Seconds that an engine may take to list the adapters that it has."""
_THERE: Final = "already"
"""The word of an engine that has the adapter: to vLLM it has already been loaded, to SGLang it already exists."""


class Adapter:
    """One adapter at one backend."""

    __slots__ = (
        "failures",
        "generation",
        "leaving",
        "loading",
        "name",
        "path",
        "requests",
        "selection",
        "shelf",
        "stale",
        "used",
        "why",
    )

    def __init__(self, shelf: Shelf, name: str, path: str) -> None:
        self.shelf: Final = shelf
        self.name: Final = name
        self.path = path
        operations = shelf.engine.adapter_operations
        self.selection: Final = Selection(operations, {}, name) if operations else None
        """How requests choose it, where its engine has it from its start on; None where it is loaded."""
        self.generation: int = -1
        """The generation of the backend's engine that has loaded it."""
        self.stale: bool = False
        """Whether the engine may have another one under this name, which must go first."""
        self.loading: bool = False
        self.leaving: bool = False
        self.requests: int = 0
        """Requests of this process that use it now."""
        self.used: float = 0.0
        """The loop's time when the last one began."""
        self.failures: int = 0
        """How often a load has failed."""
        self.why: GatewayError | None = None
        """Why, the last time."""

    @property
    def loaded(self) -> bool:
        """Whether requests may use it now, as far as is known."""
        return self.generation == self.shelf.backend.generation and not self.leaving

    def enter(self, now: float) -> None:
        """Count a request that uses it from `now` on."""
        self.requests += 1
        self.used = now

    def leave(self) -> None:
        """Count a request no more."""
        self.requests -= 1
        if self.leaving and not self.requests:
            self.shelf.changed()

    def fail(self, why: GatewayError) -> None:
        """Take note that it could not be loaded, or is not there."""
        self.why = why
        self.failures += 1

    def lost(self) -> None:
        """Take note that the engine does not have it."""
        self.generation = -1

    def held(self) -> Held | None:
        """Return what the decision looks at; None where it takes no slot."""
        if not (self.loading or self.leaving or self.loaded):
            return None
        return Held(self.name, self.requests, self.used, self.loading or self.leaving)


class Adapted(Protocol):
    """Where a model is served: a target, as far as it matters here."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def adapter(self) -> Adapter | None: ...


T = TypeVar("T", bound=Adapted)


class Shelf:
    """The adapters of one model at one backend."""

    def __init__(self, backend: Backend, changed: Callable[[], None]) -> None:
        self.backend: Final = backend
        self.engine: Final = backend.engine
        """What was known of its engine when the shelf was made, which settles how requests choose."""
        self.changed: Final = changed
        self.slots: int | None = None
        """How many the engine has at once; None for any number."""
        self.adapters: dict[str, Adapter] = {}
        self.looking: bool = False
        """Whether the engine is being asked which adapters it has."""
        self.asked: int = -1
        """The generation of the engine that was asked last."""

    @property
    def lists(self) -> bool:
        """Whether the engine has its adapters from its start on."""
        return bool(self.engine.adapter_operations)

    def keep(self, names: Collection[str]) -> None:
        """Forget every adapter that is not among `names`, where the engine has them from its start on."""
        for name in self.adapters.keys() - set(names) if self.lists else ():
            del self.adapters[name]

    def found(self, listed: bytes, generation: int) -> None:
        """Take what the engine has, as it lists it."""
        for adapter in self.adapters.values():
            assert adapter.selection is not None
            try:
                adapter.selection.members = self.engine.choice(listed, adapter.path, self.backend.launched)
                adapter.generation = generation
            except (LookupError, ValueError, RecursionError) as error:
                reason = str(error.args[0]) if isinstance(error, LookupError) else "its list cannot be read"
                adapter.fail(_lacking(adapter, reason))

    def adapter(self, name: str, path: str) -> Adapter:
        """Return the adapter of this name. Another path than before means another adapter."""
        found = self.adapters.get(name)
        if found is None:
            found = self.adapters[name] = Adapter(self, name, path)
            self.asked = -1
        elif found.path != path:
            found.path, found.stale, self.asked = path, True, -1
            found.lost()
        return found


class Adapters:
    """All adapters, and the tasks that load them."""

    def __init__(
        self, changed: Callable[[], None], change: Callable[[], Any], metrics: AdapterMetrics
    ) -> None:
        """Start with none. `changed` wakes those who wait for a change of some backend, `change` waits for one."""
        self._changed: Final = changed
        self._change: Final = change
        self._metrics: Final = metrics
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def shelf(self, model: str, backend: Backend, slots: int | None) -> Shelf:
        """Return where the adapters of a model are at a backend, with this many slots."""
        found = self._shelves.get((model, backend.name))
        engine = backend.engine
        other = found is not None and found.engine is not engine and bool(engine.adapter_operations)
        if found is None or found.backend is not backend or other:
            found = self._shelves[model, backend.name] = Shelf(backend, self._changed)
        found.slots = slots
        return found

    def keep(self, models: Collection[str]) -> None:
        """Ask no engine for the adapters of models that are not among `models`."""
        for key in [key for key, shelf in self._shelves.items() if shelf.lists and key[0] not in models]:
            del self._shelves[key]

    def show(self) -> None:
        """Set the gauge of the adapters that are loaded now."""
        gauge = self._metrics.loaded
        now = {
            (adapter.name, shelf.backend.name): float(adapter.loaded)
            for shelf in self._shelves.values()
            for adapter in shelf.adapters.values()
        }
        for gone in gauge.cells.keys() - now.keys():
            gauge.forget(*gone)
        for labels, value in now.items():
            gauge.cell(*labels).value = value

    def look(self) -> None:
        """Ask the engines which adapters they have that are up, and have not been asked since they came up."""
        for shelf in self._shelves.values():
            if shelf.lists and shelf.backend.usable and shelf.asked != shelf.backend.generation:
                self._look(shelf)

    def _look(self, shelf: Shelf) -> None:
        """Begin to ask an engine which adapters it has, unless that is under way."""
        if not shelf.looking:
            shelf.looking = True
            self._begin(self._ask(shelf))

    async def _ask(self, shelf: Shelf) -> None:
        backend = shelf.backend
        generation = shelf.asked = backend.generation
        try:
            refusal: Failure | None = Failure(Kind.CONNECT, "the engine does not run")
            if backend.upstream is not None:
                answer = await ask(backend.upstream, backend.engine.adapters(), LISTING)
                refusal = answer if isinstance(answer, Failure) else None
                if not isinstance(answer, Failure):
                    status, body = answer
                    if status == 200:
                        shelf.found(body, generation)
                        for adapter in shelf.adapters.values():
                            self._count(adapter, "there" if adapter.loaded else "failed")
                    else:
                        refusal = backend.engine.failure(status, (), body)
            if refusal is not None:
                for adapter in shelf.adapters.values():
                    adapter.fail(_lacking(adapter, refusal.detail or refusal.message))
                    self._count(adapter, "failed")
        finally:
            shelf.looking = False
            self._changed()

    def _count(self, adapter: Adapter, result: str) -> None:
        self._metrics.loads.cell(adapter.name, adapter.shelf.backend.name, result).value += 1

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def fetch(self, targets: Sequence[T], until: float) -> tuple[T, GatewayError] | None:
        """Wait until one of the targets has its adapter, at most until `until` (loop time), and have it loaded.

        Return the target at which that failed, and the error; None where one has it. Raise GatewayError where it takes
        too long.
        """
        known = {target.name: target for target in targets if target.adapter is not None}
        before = {name: _of(target).failures for name, target in known.items()}
        try:
            async with asyncio.timeout_at(until):
                while True:
                    usable = [target for target in known.values() if target.backend.usable]
                    if not usable or any(_of(target).loaded for target in usable):
                        return None
                    for target in usable:
                        adapter = _of(target)
                        if adapter.failures != before[target.name] and adapter.why is not None:
                            return target, adapter.why
                    self._decide(usable)
                    await self._change()
        except TimeoutError:
            raise GatewayError(
                Own.QUEUE_TIMEOUT, "the model's adapter is still loading", code="model_loading", retry_after=5
            ) from None

    def _decide(self, targets: Sequence[Adapted]) -> None:
        """Begin to load the adapter of the targets at one of them, if that is possible now.

        Where engines have it from their start on, they are asked whether they do.
        """
        for target in targets:
            if _of(target).shelf.lists:
                self._look(_of(target).shelf)
        targets = [target for target in targets if not _of(target).shelf.lists]
        if not targets:
            return
        engines = [_engine(target) for target in targets]
        deed = decide(_of(targets[0]).name, engines)
        if deed is None:
            return
        adapter = next(_of(target) for target in targets if target.name == deed.engine)
        victim = adapter.shelf.adapters[deed.unload] if deed.unload else None
        adapter.loading = True
        if victim is not None:
            victim.leaving = True
        self._begin(self._load(adapter, victim))

    async def _load(self, adapter: Adapter, victim: Adapter | None) -> None:
        """Load an adapter once another one is gone."""
        backend = adapter.shelf.backend
        try:
            if victim is not None:
                while victim.requests:
                    await self._change()
                await self._unload(backend, victim.name, "room")
                victim.lost()
            if adapter.stale:
                await self._unload(backend, adapter.name, "replaced")
                adapter.stale = False
            generation, began = backend.generation, perf_counter()
            arguments = {"name": adapter.name, "path": adapter.path}
            refusal = await self._asked(backend, Action.LOAD_LORA, arguments)
            if refusal is not None and _THERE not in f"{refusal.message} {refusal.detail}":
                raise _refused(f"does not load the adapter {adapter.name!r}", backend, refusal)
            adapter.generation = generation
            self._count(adapter, "loaded" if refusal is None else "there")
            if refusal is None:
                self._metrics.load.cell(backend.name).observe(perf_counter() - began)
            log.info(
                "backend '%s': the adapter '%s' is loaded%s",
                backend.name,
                adapter.name,
                "" if victim is None else f", '{victim.name}' is unloaded",
            )
        except GatewayError as error:
            adapter.fail(error)
            self._count(adapter, "failed")
        finally:
            adapter.loading = False
            if victim is not None:
                victim.leaving = False
            self._changed()

    async def _unload(self, backend: Backend, name: str, reason: str) -> None:
        refusal = await self._asked(backend, Action.UNLOAD_LORA, {"name": name})
        if refusal is None:
            self._metrics.unloads.cell(name, backend.name, reason).value += 1
        if refusal is not None and refusal.kind is not Kind.MISSING:
            raise _refused(f"does not unload the adapter {name!r}", backend, refusal)

    async def _asked(self, backend: Backend, action: Action, arguments: dict[str, Any]) -> Failure | None:
        """Have an engine do something. Return why it did not; None where it did."""
        if backend.upstream is None:
            return Failure(Kind.CONNECT, "the engine does not run")
        answer = await ask(backend.upstream, backend.engine.action(action, arguments), LOAD)
        if isinstance(answer, Failure):
            return answer
        status, body = answer
        return None if 200 <= status < 300 else backend.engine.failure(status, (), body)

    def close(self) -> None:
        """Wait for no load any longer."""
        for task in self._tasks:
            task.cancel()


def _of(target: Adapted) -> Adapter:
    assert target.adapter is not None
    return target.adapter


def _engine(target: Adapted) -> Engine:
    shelf = _of(target).shelf
    held = tuple([each for adapter in shelf.adapters.values() if (each := adapter.held()) is not None])
    return Engine(target.name, held, shelf.slots, target.backend.in_flight)


def _lacking(adapter: Adapter, reason: str) -> GatewayError:
    """Return why an adapter cannot be used that an engine should have had from its start on."""
    name = adapter.shelf.backend.name
    log.warning("backend '%s': its engine lacks the adapter '%s': %s", name, adapter.name, reason)
    message = f"the engine of backend {name!r} lacks the adapter {adapter.name!r}: {reason}"
    return GatewayError(Own.NO_BACKEND, message, code="adapter_not_loaded", retry_after=5)


def _refused(what: str, backend: Backend, failure: Failure) -> GatewayError:
    log.warning("backend '%s': its engine %s: %s", backend.name, what, failure.logged)
    message = f"the engine of backend {backend.name!r} {what}: {failure.detail or failure.message}"
    return GatewayError(Own.NO_BACKEND, message, code="adapter_not_loaded", retry_after=5)

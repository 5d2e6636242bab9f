"""What memory launched engines need, and on which GPUs they may run.

Rules:
- An engine's need is what its config says; else what it took when it last ran; else what its files and options say. One
  that takes more than that while it runs is believed, not the config.
- An engine takes more the longer it runs. So what it took in its last life counts until the one after that has ended,
  and what its files say until its first has.
- What was measured counts as long as the process is started with the same options.
- An engine that loads models by itself (Ollama) takes next to nothing at its start. Its need is the most that it ever
  took.
- A GPU that is divided (MIG) is not chosen: its parts have no numbers.
- Files are read in a thread, once for each change of an engine's options.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backends.base import LaunchOptions
from backends.facts.residing import Residing, chooses_gpus, fingerprint, starts_alike
from backends.sizing.files import facts
from backends.sizing.model import ModelError
from backends.sizing.need import Need, Space, Where
from gateway.machine.machine import Machine
from gateway.residency.memory import RAM, Amounts, in_words, most
from gateway.residency.resident import Place
from gateway.store.taken import Taken

log = logging.getLogger("gateway.fleet")

LIE = 1.1
"""How much more than its config says an engine takes until that is worth a word."""
LEFT = 2 << 30
"""Bytes of a GPU that an engine which sleeps is taken to keep: the driver's context, and graphs."""
NVIDIA = "nvidia"
"""The GPUs that `launch.gpus` numbers."""


class Needs:
    """The memory of one launched engine."""

    def __init__(self, name: str, launch: LaunchOptions, before: Needs | None = None) -> None:
        """Reckon nothing yet. `before` is what was known of the backend of this name."""
        self.name = name
        self.measured: dict[str, int] = {}
        """The most it took since its last start."""
        self._last: dict[str, int] | None = None
        """The most it took in the life before; None: there was none."""
        self.gpus: tuple[int, ...] | None = None if before is None else before.gpus
        """The GPUs on which it runs, where the gateway has chosen them."""
        self._launch = launch
        self._told = _told(launch)
        self._reckoned: Need | None = None
        self._is_reckoned = False
        self._sets: tuple[tuple[int, ...], ...] = ()
        """The GPUs it may start on, where the gateway chooses."""
        self._measured_since = 0.0
        self._judged = False
        if before is not None and starts_alike(before._launch, launch):
            self.measured, self._measured_since = before.measured, before._measured_since
            self._last = before._last
        if before is not None and before._launch == launch:
            self._reckoned, self._is_reckoned, self._sets = (
                before._reckoned,
                before._is_reckoned,
                before._sets,
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of what its process is started with."""
        return fingerprint(self._launch)

    @property
    def chooses(self) -> bool:
        """Whether the gateway chooses its GPUs."""
        return chooses_gpus(self._launch)

    def amounts(self) -> Amounts | None:
        """Return what it takes while it runs; None where nobody knows."""
        said, taken = self._said(), self._taken()
        if said is None:
            return taken or None
        return most(self._on_gpus(said), taken)

    def places(self, gone: Collection[str] = ()) -> tuple[Place, ...]:
        """Return the GPUs it may start on, with its need there; none where that is not the gateway's to choose.

        GPUs that are gone are left out, unless there are no others: the engine will say then what it lacks.
        """
        if not self.chooses:
            return ()
        said, taken = self._said() or {}, self._taken()
        ram = max(said.get(RAM, 0), taken.get(RAM, 0))
        each = max(said.get("gpu", 0), _of_each_gpu(taken))
        places = [
            Place(numbers, {RAM: ram, **{f"{NVIDIA}{number}": each for number in numbers}})
            for numbers in self._sets
        ]
        return tuple([place for place in places if not place.need.keys() & set(gone)] or places)

    def explained(self, device: str) -> str:
        """Return how its need of a device came about, before anything was measured; empty where nobody knows."""
        if self._told is not None:
            return "as `launch.memory` says"
        where = Where.RAM if device == RAM else Where.GPU
        return "" if self._reckoned is None else self._reckoned.explained(where)

    def asleep(self) -> Amounts | None:
        """Return what it keeps while it sleeps; None where it cannot sleep, or nobody knows what it needs.

        vLLM and SGLang copy the weights into RAM and keep little on the GPU (vLLM's documents, `sleep` level 1). Where
        the files do not say how much the weights are, all that it takes of its GPUs is reckoned for them.
        """
        awake = self.amounts()
        if awake is None or not getattr(self._launch, "sleep_mode", False):
            return None
        gpus = {device: amount for device, amount in awake.items() if device != RAM}
        weights = sum(gpus.values())
        if self._reckoned is not None:
            on_gpus = [term for term in self._reckoned.terms if term.where is Where.GPU]
            weights = sum(term.size for term in on_gpus if term.name == "weights") or weights
        return {
            RAM: awake.get(RAM, 0) + weights,
            **{device: min(LEFT, amount) for device, amount in gpus.items()},
        }

    async def reckon(self, machine: Machine | None) -> None:
        """Find out what its files and options say, unless that has been done."""
        if machine is not None and machine.host().memory_total is None:
            return
        gpus = _gpus(machine)
        if self.chooses and not self._sets:
            self._sets = self._possible(gpus)
        if self._is_reckoned:
            return
        self._is_reckoned = True
        ram = 0 if machine is None else machine.host().memory_total or 0
        where = self._launch.files()
        if self._told is None and where is not None:
            try:
                found = await asyncio.to_thread(facts, where)
                self._reckoned = self._launch.need(found, Space(self._seen(gpus), ram))
            except ModelError as error:
                log.debug("backend '%s': its need cannot be reckoned: %s", self.name, error)
        if self.chooses:
            self._sets = self._possible(gpus)

    def recall(self, amounts: Mapping[str, int]) -> None:
        """Take note of what it took in an earlier run of the gateway, unless it has run since."""
        if self._last is None and not self.measured:
            self._last = dict(amounts)

    def taken(self, running: bool) -> Taken:
        """Return what was measured, as it is kept for the next run of the gateway; `running`: its life goes on."""
        if running or not self._launch.served_names():
            return Taken(self.fingerprint, most(self._last or {}, self.measured))
        return Taken(self.fingerprint, dict(self.measured))

    def take(self, use: Mapping[str, int], began_at: float) -> None:
        """Take note of what it takes now, by device, since it was started at `began_at`."""
        if began_at != self._measured_since:
            if self.measured:
                self._last = self.taken(running=False).amounts
            self._measured_since, self.measured = began_at, {}
        self.measured = most(self.measured, use)
        if self._judged or self._told is None:
            return
        for device, told in self._on_gpus(self._told).items():
            taken = self.measured.get(device, 0)
            if taken > told * LIE:
                self._judged = True
                message = "backend '%s' takes %s of %s, not %s as `launch.memory` says"
                log.warning(message, self.name, in_words(taken), device, in_words(told))

    def _said(self) -> dict[str, int] | None:
        """Return what its config or its files say that it takes: of RAM, and of each GPU."""
        if self._told is not None:
            return self._told
        return None if self._last is not None or self._reckoned is None else _of(self._reckoned)

    def _taken(self) -> dict[str, int]:
        """Return the most it took in this life and in the one before, which may have been on other GPUs."""
        taken = most(self._last or {}, self.measured)
        if not self.chooses or self.gpus is None:
            return taken
        each = _of_each_gpu(taken)
        ram = {RAM: taken[RAM]} if RAM in taken else {}
        return ram | ({f"{NVIDIA}{number}": each for number in self.gpus} if each else {})

    def _seen(self, gpus: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Return the memory of each GPU that it may use."""
        chosen = getattr(self._launch, "gpus", None)
        return tuple(total for number, total in gpus if not isinstance(chosen, tuple) or number in chosen)

    def _on_gpus(self, amounts: Mapping[str, int]) -> dict[str, int]:
        """Return amounts with what is needed of each GPU said of the GPUs that it uses."""
        each = amounts.get("gpu", 0)
        found = {RAM: amounts[RAM]} if RAM in amounts else {}
        if not each:
            return found
        chosen = self.gpus or getattr(self._launch, "gpus", None)
        if not isinstance(chosen, tuple):
            chosen = tuple(range(_count(self._launch, self._reckoned)))
        return found | {f"{NVIDIA}{number}": each for number in chosen}

    def _possible(self, gpus: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
        """Return the sets of GPUs on which it may run: as many as it needs, of equal memory."""
        return tuple(
            tuple(number for number, _ in chosen)
            for chosen in itertools.combinations(gpus, _count(self._launch, self._reckoned))
            if len({total for _, total in chosen}) == 1
        )


def _told(launch: Any) -> dict[str, int] | None:
    """Return what the config says that an engine takes: of RAM, and of each GPU."""
    if not isinstance(launch, Residing) or launch.memory is None:
        return None
    told = {} if launch.memory.ram is None else {RAM: launch.memory.ram}
    return told if launch.memory.gpu is None else told | {"gpu": launch.memory.gpu}


def _of(need: Need) -> dict[str, int]:
    """Return a reckoned need from the start on, of RAM and of each GPU. What grows later is measured then."""
    return {RAM: need.ram, "gpu": need.each_gpu} if need.gpus else {RAM: need.ram}


def _of_each_gpu(amounts: Amounts) -> int:
    """Return the most that is taken of any GPU."""
    return max((amount for device, amount in amounts.items() if device != RAM), default=0)


def _count(launch: Any, need: Need | None) -> int:
    """Return how many GPUs an engine uses whose GPUs nobody has named."""
    if need is not None and need.gpus:
        return need.gpus
    return (getattr(launch, "tensor_parallel", None) or 1) * (getattr(launch, "pipeline_parallel", None) or 1)


def _gpus(machine: Machine | None) -> list[tuple[int, int]]:
    """Return the number and the memory of each GPU that `launch.gpus` can name."""
    found = () if machine is None else machine.gpus()
    return [
        (int(gpu.id.removeprefix(NVIDIA)), gpu.memory_total)
        for gpu in found
        if gpu.id.startswith(NVIDIA) and gpu.memory_total is not None and not gpu.divided
    ]

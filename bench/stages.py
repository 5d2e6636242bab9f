"""The two stages of `bench.residency`: real engines in RAM, and engines that play on GPUs that are made up.

Rules:
- A stage says what is launched, what the budget is, and how the memory that engines hold is looked at from outside.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from bench import accounting
from bench.stand_in import gpus
from bench.swaps import GPUS, IN_RAM, MIB, Rules

ROOT = Path(__file__).resolve().parent.parent


class Stage(ABC):
    """What engines there are, and in what memory."""

    rules: Rules

    @property
    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """The names of the models, which are those of their files."""

    @abstractmethod
    def launch(self, model: str) -> dict[str, Any]:
        """Return the launch options of a model's engine, but for the model and when it runs."""

    def engines(self) -> dict[str, Any]:
        """Return `server.engines`."""
        return {}

    def environment(self) -> dict[str, str]:
        """Return variables for the gateway."""
        return {}

    @abstractmethod
    def memory(self, pids: list[int]) -> int:
        """Return the bytes that count against the budget, of the engines that are these processes."""


class InRam(Stage):
    """Five copies of the demo model under the embedded llama.cpp, in a budget of RAM."""

    rules = IN_RAM
    models = ("m0", "m1", "m2", "m3", "m4")

    def launch(self, model: str) -> dict[str, Any]:
        """Return small and quick ones."""
        return {"threads": 1, "context": 512, "parallel": 4, "prompt_cache": False}

    def engines(self) -> dict[str, Any]:
        """Return the budget of RAM."""
        return {"memory": {"ram": f"{self.rules.budget // MIB}MiB"}}

    def memory(self, pids: list[int]) -> int:
        """Return what is resident of all."""
        return sum(accounting.resident(pid) for pid in pids)


class OnGpus(Stage):
    """Models of 5 to 20 GiB for two GPUs of 24 GiB, which NVML's stand-in tells of."""

    rules = GPUS
    models = ("g05", "g08", "g10", "g12", "g16", "g20")

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "gpus"
        self._folder.mkdir()
        self._program = folder / "llama-server"
        engine = Path(gpus.__file__).with_name("engine.py")
        self._program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{engine}" "{self._folder}" "$@"\n')
        self._program.chmod(0o700)

    def launch(self, model: str) -> dict[str, Any]:
        """Return an engine whose GPUs the gateway chooses."""
        return {"runtime": str(self._program), "gpus": "auto", "memory": {"gpu": f"{int(model[1:])}GiB"}}

    def environment(self) -> dict[str, str]:
        """Have the gateway find the stand-in instead of NVML's binding."""
        return {gpus.FOLDER: str(self._folder), "PYTHONPATH": str(Path(gpus.__file__).parent)}

    def memory(self, pids: list[int]) -> int:
        """Return what is in use of the fuller GPU."""
        return max(gpus.used(self._folder))

"""Reload the config while the gateway runs: when its files change, at SIGHUP, and when an operator asks.

Rules:
- One attempt at a time, by one task. Those who ask while one is under way share the next.
- Read and checked as a whole, then applied as a whole or not at all: with a config that is wrong in any way, the one
  before stays in force. That is logged once for the same mistakes, unless somebody asked.
- Files are looked at every `LOOK` seconds and read when they have stopped changing: an editor may write in pieces.
- A config that is right and cannot be applied, such as to an engine whose files are missing, is tried again.
- Reading happens in a thread, so that streams go on meanwhile. It is the only thing that does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.config import file
from gateway.config.diff import changes
from gateway.config.disk import Disk, Stamp
from gateway.config.file import Loaded
from gateway.config.outcome import RESULTS, Outcome, Refused
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.telemetry.metrics import Metrics

log = logging.getLogger("gateway.reload")

LOOK = 1.0
"""Seconds between two looks at the files."""
SETTLE = 0.2
"""Seconds for which files must not have changed to be read."""
LOOKS = 50
"""Most looks at files that keep changing before they are read all the same."""
AGAIN = 30
"""Looks after which a config is tried again that was right and could not be applied."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A config that is in force: it as it took effect, and what of it did not."""

    config: Config
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """What a config is applied to: this process, or several."""

    async def adopt(self, loaded: Loaded, disk: Disk) -> Applied:
        """Apply a config. `disk` is what it was read from. Raises Refused where it cannot be; nothing has changed."""

    def told(self, outcome: Outcome) -> None:
        """Remember what became of an attempt, for operators."""


class Reloader:
    """Reads the config again and again, and applies what has changed."""

    def __init__(
        self,
        path: Path,
        loaded: Loaded,
        disk: Disk,
        target: Target,
        metrics: Metrics,
        pauses: tuple[float, float] = (LOOK, SETTLE),
    ) -> None:
        """Watch the files of a config that is in force.

        `loaded` was read from `disk`, by `path`. `pauses` are the seconds between two looks, and those for which files
        must not have changed.
        """
        self._path = path
        self._version = loaded.version
        self._config = loaded.config
        """As it took effect."""
        self._read: Config | None = loaded.config
        """As it was read last; None where not all of it took effect, so that it is worth another try."""
        self._disk = disk
        """What the last attempt has read, whatever became of it."""
        self._target = target
        self._look, self._settle = pauses
        self._woken = asyncio.Event()
        self._asking: list[asyncio.Future[Outcome]] = []
        self._why = ""
        self._told: tuple[str, ...] = ()
        """The problems that were logged last, as long as the config is wrong."""
        self._patience: int | None = None
        """Looks until the config is tried again; None where that makes no sense."""
        self._counts = {result: metrics.program.reloads.cell(result) for result in RESULTS}
        self._success = metrics.program.reload_success.cell()
        self._success.value = 1

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._look):
                    await self._woken.wait()
            except TimeoutError:
                if not self._is_due():
                    continue
                await self._settled()
            self._woken.clear()
            asking, self._asking = self._asking, []
            why, self._why = self._why, ""
            outcome = await self._attempt(why or "its files have changed", loud=bool(why))
            for each in asking:
                if not each.done():
                    each.set_result(outcome)

    def wake(self, why: str) -> None:
        """Read the config soon, whether it has changed or not. `why` is for the log."""
        self._why = why
        self._woken.set()

    async def ask(self) -> Outcome:
        """Read the config now, whether it has changed or not, and return what became of that."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._asking.append(answer)
        self.wake("asked for by an operator")
        return await answer

    def _is_due(self) -> bool:
        """Look at the files, and tell whether they are to be read."""
        if self._patience is not None:
            self._patience -= 1
        return self._patience == 0 or self._disk.look() != self._disk.seen

    async def _settled(self) -> None:
        """Wait until the files have stopped changing, or somebody asks for them as they are."""
        before: dict[str, Stamp] | None = None
        for _ in range(LOOKS):
            now = self._disk.look()
            if now == before or self._woken.is_set():
                return
            before = now
            await asyncio.sleep(self._settle)

    async def _attempt(self, why: str, loud: bool) -> Outcome:
        """Read the config and apply it. `loud`: log also what was logged before."""
        self._patience = None
        try:
            outcome = await self._reloaded()
        except ConfigError as error:
            outcome = Outcome("refused", self._version, problems=tuple(map(str, error.problems)))
        except Refused as error:
            self._patience = AGAIN
            outcome = Outcome("refused", self._version, problems=(str(error),))
        except Exception as error:
            log.exception("the config could not be applied, which is a bug")
            problem = f"a bug of the gateway ({type(error).__name__}); see its log"
            outcome = Outcome("refused", self._version, problems=(problem,))
        self._counts[outcome.result].value += 1
        self._success.value = float(outcome.result != "refused")
        self._say(outcome, why, loud)
        self._target.told(outcome)
        return outcome

    async def _reloaded(self) -> Outcome:
        disk = Disk()
        try:
            loaded = await asyncio.to_thread(file.read, self._path, os.environ, disk)
        finally:
            self._disk = disk
        if loaded.version == self._version and loaded.config == self._read:
            return Outcome("unchanged", self._version)
        applied = await self._target.adopt(loaded, disk)
        differs = tuple(changes(self._config, applied.config))
        self._version, self._config = loaded.version, applied.config
        self._read = None if applied.notes else loaded.config
        return Outcome("applied", self._version, differs, applied.notes)

    def _say(self, outcome: Outcome, why: str, loud: bool) -> None:
        if outcome.result == "refused":
            if loud or outcome.problems != self._told:
                log.error(
                    "the config stays as it is, version %s (%s): %s", outcome.version, why, outcome.summary()
                )
            self._told = outcome.problems
            return
        if outcome.result == "applied":
            words = outcome.summary() or "nothing that takes effect differs"
            log.info("the config is reloaded, version %s (%s): %s", outcome.version, why, words)
            for note in outcome.notes:
                log.warning("%s", note)
        elif loud or self._told:
            log.info("the config is unchanged, version %s (%s)", outcome.version, why)
        self._told = ()


OnReload = Callable[[], Awaitable[Outcome]]

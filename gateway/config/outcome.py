"""What became of an attempt to reload the config, and which config is in force: values for the log and for operators.

Rules:
- Values only. They hold no secrets: problems and changes are written so that they may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SHOWN = 8
"""Most changes or problems in one line of the log."""

Result = Literal["applied", "unchanged", "refused"]
RESULTS: tuple[Result, ...] = ("applied", "unchanged", "refused")


class Refused(Exception):
    """A config that was read cannot be applied to what runs; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt."""

    result: Result
    version: str
    """The version that is in force now."""
    changes: tuple[str, ...] = ()
    """What differs from before, a line each."""
    notes: tuple[str, ...] = ()
    """What did not take effect, and why."""
    problems: tuple[str, ...] = ()
    """Why the config was refused: each with file, line and column where it has one."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Outcome:
        """Return an outcome that another process told as plain values, as `dataclasses.asdict` returns them."""
        lines = (tuple(told[name]) for name in ("changes", "notes", "problems"))
        return cls(told["result"], told["version"], *lines)

    def summary(self) -> str:
        """Return the changes, or else the problems, in one line."""
        lines = self.problems or self.changes
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        return "; ".join(lines[:SHOWN]) + more


@dataclass(slots=True)
class InForce:
    """The config that a process runs by, as far as operators are told of it."""

    version: str = ""
    files: tuple[str, ...] = ()
    since: float = 0.0
    """When it was applied: seconds since the epoch."""
    profile: str | None = None
    """The profile that is active; None for none."""
    last: Outcome | None = None
    """The last attempt to reload; None if there was none."""

    def take(self, version: str, files: tuple[str, ...], now: float) -> None:
        """Note that a config is in force from `now` on."""
        self.version, self.files, self.since = version, files, now

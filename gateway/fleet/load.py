"""The load that an engine reports of itself, as decisions read it: a number, or nothing.

Rules:
- A value is there only while it may be believed: it was ok when the engine told it, and that is at most `FRESH` seconds
  ago. Whatever else is known of it (`gateway.fleet.signals.Book`) is for operators.
- Reading costs a comparison. What can be computed is computed when the engine has told something, not for each request.
- One process asks the engines. Where others serve, it tells them (`Report`), and each judges by its own clock.
- Nothing is believed of an engine after it went away, moved or fell asleep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INTERVAL: Final = 5.0
"""Seconds between questions to one engine."""
FRESH: Final = 15.0
"""Seconds after which a value is stale: three questions without an answer."""

_NEVER: Final = float("-inf")

Ages = Mapping[str, tuple[float, float]]
"""What an engine has told and may be believed: the names of signals to value and age in seconds."""


class Load:
    """What one engine has told of its load, for as long as it may be believed.

    Every `now` is the event loop's time.
    """

    __slots__ = (
        "_foreign",
        "_foreign_until",
        "_kv_use",
        "_kv_use_until",
        "_models",
        "_models_until",
        "_running",
        "_running_until",
        "_slots",
        "_slots_until",
        "_waiting",
        "_waiting_until",
    )

    def __init__(self) -> None:
        """Start without any signal."""
        self._running: float = 0.0
        self._running_until: float = _NEVER
        self._waiting: float = 0.0
        self._waiting_until: float = _NEVER
        self._slots: float = 0.0
        self._slots_until: float = _NEVER
        self._kv_use: float = 0.0
        self._kv_use_until: float = _NEVER
        self._models: tuple[str, ...] = ()
        self._models_until: float = _NEVER
        self._foreign: float = 0.0
        self._foreign_until: float = _NEVER

    def running(self, now: float) -> float | None:
        """Return how many requests the engine computes; None where that is not known."""
        return self._running if now <= self._running_until else None

    def waiting(self, now: float) -> float | None:
        """Return how many requests the engine has accepted and not begun; None where that is not known."""
        return self._waiting if now <= self._waiting_until else None

    def slots(self, now: float) -> float | None:
        """Return how many requests the engine can compute at once; None where that is not known."""
        return self._slots if now <= self._slots_until else None

    def kv_use(self, now: float) -> float | None:
        """Return the fraction of the engine's KV cache in use, from 0 to 1; None where that is not known."""
        return self._kv_use if now <= self._kv_use_until else None

    def models(self, now: float) -> tuple[str, ...] | None:
        """Return the names of the models in the engine's memory; None where that is not known."""
        return self._models if now <= self._models_until else None

    def foreign(self, now: float) -> float:
        """Return how many requests are at the engine that this process did not send; 0 where that is not known."""
        return self._foreign if now <= self._foreign_until else 0.0

    def take(self, ages: Ages, models: tuple[str, ...], in_flight: int, now: float) -> None:
        """Believe these values, and nothing that was told before.

        `models` are the names that belong to the signal `models`. `in_flight` is how many requests this process had at
        the engine when it was asked.
        """
        self._running, self._running_until = _believed(ages, "running", now)
        self._waiting, self._waiting_until = _believed(ages, "waiting", now)
        self._slots, self._slots_until = _believed(ages, "slots", now)
        self._kv_use, self._kv_use_until = _believed(ages, "kv_use", now)
        self._models, self._models_until = models, _believed(ages, "models", now)[1]
        self._foreign = max(0.0, self._running + self._waiting - in_flight)
        # Where one of the two is not told the other one still says that at least so many are there.
        known = [until for until in (self._running_until, self._waiting_until) if until != _NEVER]
        self._foreign_until = min(known, default=_NEVER)


class Slots:
    """How many requests one engine computes at once; None where that is not known.

    What it told last counts until it has gone elsewhere: a busy engine may be slow to tell it again.
    """

    __slots__ = ("launched", "told")

    def __init__(self) -> None:
        self.launched: int | None = None
        """As the options say that it was launched with."""
        self.told: int | None = None
        """As it has told itself."""

    def count(self, load: Load, now: float) -> int | None:
        """Return how many there are, as the engine tells, or else as it was launched."""
        told = load.slots(now)
        if told is not None and told >= 1.0:
            self.told = int(told)
        return self.told or self.launched


def _believed(ages: Ages, signal: str, now: float) -> tuple[float, float]:
    """Return the value of a signal and the time until which it may be believed; 0 and never where it was not told."""
    found = ages.get(signal)
    if found is None:
        return 0.0, _NEVER
    return found[0], now - found[1] + FRESH

"""What engines report of their load, as values. Everybody imports them from `backends.base`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Signal(enum.StrEnum):
    """What engines report about their load, with one name for each quantity."""

    RUNNING = "running"
    """Requests being computed."""
    WAITING = "waiting"
    """Requests accepted and not yet begun."""
    SLOTS = "slots"
    """The most requests that can be computed at once."""
    KV_USE = "kv_use"
    """The fraction of the KV cache in use, from 0 to 1."""
    PREFIX_HITS = "prefix_hits"
    """The fraction of prompt tokens found in the prefix cache since the engine started, from 0 to 1."""
    MODELS = "models"
    """Models in memory; the reading names them."""
    LORAS = "loras"
    """LoRA adapters in use; the reading names them."""
    ASLEEP = "asleep"
    """1 while the engine has released its memory and must be woken, else 0."""


class Status(enum.StrEnum):
    """How far a reading can be trusted."""

    OK = "ok"
    MISSING = "missing"
    """The engine does not report it: switched off, renamed in a newer version, or not there yet."""
    STALE = "stale"
    """It was ok once; the engine has not reported it again for a while."""
    SUSPECT = "suspect"
    """It is reported and cannot be right: out of range, or idle while the gateway's own requests run."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal as an engine reported it.

    `value` is None if it was not reported. `names` belongs to signals that count named things. `source` is the engine's
    own name for the signal, or the reason why it is missing.
    """

    status: Status
    value: float | None = None
    names: tuple[str, ...] = ()
    source: str = ""


Signals = Mapping[Signal, Reading]
"""Every signal the engine can report, also those it did not report this time."""

"""When a launched engine runs: the launch options that decide it, shared by all engines.

Rules:
- None of them is part of the command line: a change of one leaves an engine that runs as it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backends.base import LaunchOptions
from backends.facts.units import Duration, IdleTime, Size

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Named = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class MemoryNeed(BaseModel):
    """How much memory an engine takes while it runs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    ram: Size | None = Field(None, description="Of the machine's RAM.")
    gpu: Size | None = Field(None, description="Of each GPU that it uses.")


class Residing(LaunchOptions):
    """When an engine is started and stopped."""

    start: Literal["always", "on_demand"] = Field(
        "always",
        description="`always`: it runs as long as the gateway does. `on_demand`: it starts when a request needs it, "
        "and may be stopped again.",
    )
    idle: IdleTime | None = Field(
        None,
        description="How long without a request until an `on_demand` engine stops; `never`: it stays. Left out, what "
        "`defaults.idle` says.",
    )
    priority: int = Field(
        0,
        ge=-1000,
        le=1000,
        description="Engines of a lower priority make room first. Among those that wait for room, each point is worth "
        "a second of waiting.",
    )
    pin: bool = Field(
        False, description="Whether an `on_demand` engine stays once it runs, whoever needs its room."
    )
    memory: MemoryNeed | None = Field(
        None,
        description="How much memory it takes while it runs. Left out, as much as it took the last time; before the "
        "first time, what its files and options say.",
    )
    group: Named | None = Field(
        None, description="A name of your own. Of the engines of one group, one runs at a time."
    )
    exclusive_with: tuple[Named, ...] = Field(
        (), description="Backends whose engines must not run while this one does."
    )
    warm: tuple[Prompt, ...] = Field(
        (),
        description="Prompts that the engine gets after each start, before the first request: what it then has in its "
        "cache, or has compiled, need not be done again.",
    )
    max_wait: Duration | None = Field(
        None,
        description="How long a request may wait until an `on_demand` engine is ready. Left out, until its start must "
        "have succeeded or failed: `start_timeout` and `stop_timeout` from its begin, and five seconds. The request's "
        "own `total` ends it in any case.",
    )
    finish_load: bool = Field(
        False,
        description="Whether a start goes on that no request waits for any more, because its clients left.",
    )


MARGIN: Final = 5.0
"""Seconds that a request waits longer than a start may take, so that it is told why the start has failed."""


def longest_start(launch: Residing) -> float:
    """Return how many seconds after its begin a start has succeeded, or failed and everybody was told so."""
    return (
        float(getattr(launch, "start_timeout", 300.0)) + float(getattr(launch, "stop_timeout", 10.0)) + MARGIN
    )


_FIELDS = {*Residing.model_fields, "pull"}
"""Options that say nothing of the process. `pull` says where its model comes from, which is here once it runs."""


def starts_alike(one: LaunchOptions | None, other: LaunchOptions | None) -> bool:
    """Tell whether two sections start the same process: they differ in nothing but when it runs."""
    if type(one) is not type(other) or one is None or other is None:
        return one == other
    return one.model_dump(exclude=_FIELDS) == other.model_dump(exclude=_FIELDS)


def fingerprint(launch: LaunchOptions) -> str:
    """Return a short hash of what the process is started with: the same for sections that start the same process."""
    said = launch.model_dump(mode="json", exclude=_FIELDS)
    text = json.dumps([type(launch).__name__, said], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def chooses_gpus(launch: object) -> bool:
    """Tell whether the gateway chooses the GPUs of an engine (`gpus: auto`)."""
    return getattr(launch, "gpus", None) == "auto"

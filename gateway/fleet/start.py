"""What is known of one start of a launched engine, and the states of its process."""

from __future__ import annotations

import asyncio
import enum
import signal
import socket
from collections.abc import Sequence
from typing import NamedTuple

from backends.base import Launch
from backends.facts.logs import says_something
from gateway.fleet.adoption import Remote
from gateway.fleet.left import Mark
from gateway.fleet.spawning import Folder

LAST_WORDS_LIMIT = 300
"""Characters of its last line that are shown as the reason of its end, where nothing else tells one."""


STAYS = "a command has to stay as long as its server runs (`docker run` without --detach)"
"""What is said of an end that is a success."""


class ProcessState(enum.StrEnum):
    """Where a launched engine is in its life."""

    STARTING = "starting"
    """Its command line is being made and started."""
    RUNNING = "running"
    """The process runs, ready or not."""
    ENDED = "ended"
    """The process has ended by itself; what it has left behind is being cleared away."""
    FAILED = "failed"
    """It could not be started or has ended; it will be started again after a while."""
    STOPPED = "stopped"
    """Nothing runs, and nothing will."""


Warden = asyncio.subprocess.Process | Remote


class Started(NamedTuple):
    """An engine that runs under its warden."""

    launch: Launch
    port: int
    folder: Folder
    warden: Warden
    control: socket.socket
    key: str | None = None
    """What it asks of its clients as a bearer token, if it was given a key for this start."""
    mark: Mark | None = None
    """What tells the next gateway of it; None: it ends with this one."""
    adopted: bool = False
    """Whether another gateway started it, and this one has taken it over."""


class AdapterBug(Exception):
    """An adapter has raised what it must not raise; that is the cause."""


def guess(status: int, tail: Sequence[str]) -> str:
    """Return why an engine may have ended of which nothing else tells: by its exit status and its last lines."""
    if status in (128 + signal.SIGKILL, -signal.SIGKILL):
        return "something killed it, as the system does when memory runs out"
    said = next((line for line in reversed(tail) if says_something(line)), None)
    words = "it gave no reason" if said is None else f"its last words were: {said[:LAST_WORDS_LIMIT]}"
    return words if status else f"{words}; {STAYS}"

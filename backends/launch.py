"""How an engine is started as a process of this machine: its command line and what else the launcher must know.

Rules:
- It is a value, made anew for each start from the backend's `launch` section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an engine as a child process that serves HTTP on `host:port`."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 300.0
    """Seconds until the engine must report that it is ready."""
    stop_timeout: float = 10.0
    """Seconds from SIGTERM to SIGKILL."""
    key_env: str | None = None
    """The environment variable for the bearer token that the engine demands, new for each start, if it takes one."""
    port: int | None = None
    """The port on which it listens, if it is not the one that it was to be started with."""
    stop: tuple[str, ...] = ()
    """A command that ends it, run before SIGTERM and after it has ended by itself; none for most engines."""

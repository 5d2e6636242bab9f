"""What a request knows of those who serve it: the least that ending, showing and pausing it takes.

Rules:
- Only what `gateway.request` itself calls.
"""

from __future__ import annotations

from typing import Protocol

from backends.base import Usage


class Source(Protocol):
    """The source of an answer's bytes: a connection to a backend, with flow control."""

    def pause(self) -> None:
        """Stop reading, because the client cannot keep up."""

    def resume(self) -> None:
        """Continue reading."""


class Work(Protocol):
    """Something that serves a request by callbacks, with a task only while it waits."""

    def interrupt(self, error: Exception) -> None:
        """Stop, release every resource, and end the request with `error`."""


class Trying(Protocol):
    """An attempt to have a backend serve a request."""

    @property
    def tokens(self) -> Usage:
        """The tokens so far: one for each piece of content, until the engine says how many there were."""


class Beating(Protocol):
    """A heartbeat: it keeps a client's connection alive until there is content."""

    def stop(self) -> None:
        """Send no more signs of life."""


class Standing(Protocol):
    """What a request that waits for a slot knows of its queue."""

    def words(self) -> str:
        """Return where it stands now, in words; empty where nothing is known."""

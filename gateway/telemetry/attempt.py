"""An attempt that is over, as `gateway.wire.relay.Attempt` has it, for those who count it."""

from __future__ import annotations

from typing import Protocol

from backends.base import Failure, Usage


class Tried(Protocol):
    """The least that is known of it. Times are nanoseconds of the timeline's clock, 0 for what did not happen."""

    @property
    def result(self) -> str: ...
    @property
    def tokens(self) -> Usage:
        """The tokens that the engine counted; if it counted none, one for each piece of content."""

    @property
    def sent_at(self) -> int: ...
    @property
    def first_token_at(self) -> int: ...


class Counted(Tried, Protocol):
    """The same with what the engine said of it."""

    @property
    def usage(self) -> Usage | None:
        """The tokens that the engine counted."""

    @property
    def failure(self) -> Failure | None: ...
    @property
    def status(self) -> int: ...

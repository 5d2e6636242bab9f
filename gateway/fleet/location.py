"""Where a launched engine is: told by the process that launched it to whoever sends requests there.

Rules:
- The key is shown by no `repr`, so that it stays out of logs and tracebacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Location:
    """An engine has come, or is gone."""

    name: str
    """The backend's."""
    url: str | None
    """None: gone."""
    reason: str
    """Why it is there and not ready, or why it is gone; one line."""
    key: str | None = field(default=None, repr=False)
    """What the engine asks of its clients as a bearer token."""


OnLocation = Callable[[Location], None]

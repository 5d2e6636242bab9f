"""What a launched engine was measured to take, as the store keeps it; imported also where there is no store."""

from __future__ import annotations

from typing import NamedTuple


class Taken(NamedTuple):
    """The most that an engine took, in bytes by device, and the hash of what its process was started with."""

    launch: str
    amounts: dict[str, int]

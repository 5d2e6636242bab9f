"""How far a backend is asked in the APIs that its engine speaks itself: some versions speak some of them badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from backends.base import Operation, Request
from backends.dialect import rewrite
from backends.facts.versions import Version
from backends.surfaces.codecs import CODECS, possible

_NO_TOOLS = (None, b"null", b"[]")


class Limit(NamedTuple):
    """How far a backend is asked for one operation as it is."""

    use: bool = True
    tools: bool = True
    """Whether requests that offer tools pass too."""
    since: Version | None = None
    """The first version of the engine for which any passes."""

    def holds(self, version: Version | None) -> bool:
        """Tell whether a backend with this version is asked for it at all; None: the version is not known."""
        if self.since is None or not self.use:
            return self.use
        return version is not None and version >= self.since


class Native:
    """What one backend is asked for as it is."""

    __slots__ = ("_limits", "_toolless", "operations", "possible", "wants_version")

    def __init__(
        self, own: frozenset[Operation], limits: Mapping[Operation, Limit], version: Version | None
    ) -> None:
        """Take what the engine has itself, the limits of the config, and the engine's version where it is known."""
        denied = {operation for operation, limit in limits.items() if not limit.holds(version)}
        self._limits = limits
        self._toolless = frozenset(operation for operation, limit in limits.items() if not limit.tools)
        self.operations: frozenset[Operation] = own - denied
        """What passes, with or without tools."""
        self.possible: frozenset[Operation] = possible(self.operations)
        """What it can be asked for in one way or another."""
        self.wants_version: bool = any(limit.since is not None for limit in limits.values())
        """Whether the engine's version decides."""

    def of(self, request: Request) -> frozenset[Operation]:
        """Return what passes, as far as this request is concerned."""
        operation = request.operation
        if operation not in self._toolless or CODECS[operation].said_as not in self.operations:
            return self.operations
        members = rewrite.members(request.body)
        offered = members.get("tools")
        if offered is None or bytes(offered).translate(None, b" \t\r\n") in _NO_TOOLS:
            return self.operations
        return self.operations - {operation}

    def changed(self, own: frozenset[Operation], version: Version | None) -> Native:
        """Return the same limits for another engine, or for another version of it."""
        return Native(own, self._limits, version)

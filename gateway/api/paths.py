"""Which endpoint a path means that is not written as the reference writes it.

Rules:
- Only what is plain: slashes too many, `/v1` missing or twice. Case, dots and encoded slashes are never interpreted.
- The path that is meant asks for the key that it always asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

VERSION = "/v1"


class Paths:
    """The paths there are: whole ones, and the beginnings of those that end in a name."""

    def __init__(self, templates: Iterable[str]) -> None:
        """Take paths as routers write them: `/v1/models`, `/v1/models/{model}`."""
        known = [(template.partition("{")) for template in templates]
        self._whole = frozenset(begin for begin, brace, _ in known if not brace)
        self._begun = tuple({begin for begin, brace, _ in known if brace})

    def meant(self, path: str) -> str:
        """Return the path that `path` means, or `path` itself if there is none."""
        parts = [part for part in path.split("/") if part]
        while parts[:2] == ["v1", "v1"]:
            del parts[0]
        plain = "/" + "/".join(parts)
        for each in (plain, VERSION + plain, plain.removeprefix(VERSION) or "/"):
            if each in self._whole or each.startswith(self._begun):
                return each
        return path

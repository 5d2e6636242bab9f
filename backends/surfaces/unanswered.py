"""The calls of tools in a conversation that have no answer yet, in dialects whose answers may leave the call's id out.

Rules:
- An answer without an id belongs to the first call of its name that has none yet; without a name, to the first call.
"""

from __future__ import annotations


class Unanswered:
    """The calls that have no answer yet, as pairs of id and name."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, str]] = []
        self._count = 0

    def add(self, said: str | None, name: str) -> str:
        """Take a call with the id it has, if any; return its id."""
        self._count += 1
        known = said or f"call_{self._count}"
        self._calls.append((known, name))
        return known

    def answered(self, said: str | None, name: str | None) -> str:
        """Return the id of the call that an answer belongs to."""
        for at, (known, called) in enumerate(self._calls):
            if known == said or (not said and name in (None, "", called)):
                del self._calls[at]
                return known
        return said or (self._calls.pop(0)[0] if self._calls else "call_0")

"""The name that a word was probably meant to be.

Rules:
- However many names there are, a word is compared with few: those that stand near it in the order of their beginnings,
  and in that of their ends. A slip in one place leaves the other side as it is.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

_NEAR: Final = 8
"""Names to each side of a word, in each order, that are compared."""
_LONGEST: Final = 128
"""Characters of a word that are compared: the time grows with their square."""


class Similar:
    """Some names, put in order when they are first needed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: Iterable[str] = names
        self._by_case: dict[str, str] = {}
        self._orders: list[list[str]] = []
        """The names from left to right and from right to left."""

    def closest(self, word: str, allowed: Callable[[str], bool] | None = None) -> str | None:
        """Return the name that `word` was probably meant to be; None where no name that is `allowed` is close."""
        if not self._orders:
            self._by_case = {name.lower()[:_LONGEST]: name for name in self._names}
            self._orders = [sorted(self._by_case), sorted(name[::-1] for name in self._by_case)]
        word = word[:_LONGEST].lower()
        near = [name for name in self._near(word) if allowed is None or allowed(self._by_case[name])]
        found = difflib.get_close_matches(word, near, n=1)
        return self._by_case[found[0]] if found else None

    def _near(self, word: str) -> list[str]:
        forwards, backwards = self._orders
        if len(forwards) <= 4 * _NEAR:
            return forwards
        at, end = bisect_left(forwards, word), bisect_left(backwards, word[::-1])
        found = forwards[max(at - _NEAR, 0) : at + _NEAR]
        return found + [name[::-1] for name in backwards[max(end - _NEAR, 0) : end + _NEAR]]

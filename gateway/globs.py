"""Patterns of names, as keys and aliases have them: `*` stands for any text, `?` for any one character.

Rules:
- Every other character stands for itself, brackets too: names of models have them.
- A name is matched in time linear in its length, and only against patterns that begin as it does.
- Of several patterns that fit, the best says most of the name: the one with the most characters that stand for
  themselves. Between equals the one with fewer `*` wins, then the first in the order of their letters. In which order
  they were written never matters.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Final

_WILD: Final = re.compile(r"[*?]")
_NUMBER: Final = re.compile(r"([0-9]{1,18})")
_TAG = ":latest"
_RUN: Final = re.compile(r"[*?]*\*[*?]*")
"""Several wild characters in a row, a `*` among them."""


def is_wild(pattern: str) -> bool:
    """Tell whether a pattern may fit more than one name."""
    return _WILD.search(pattern) is not None


def beginning(pattern: str) -> str:
    """Return the text with which every name begins that a pattern fits."""
    return _WILD.split(pattern, maxsplit=1)[0]


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as an expression for `fullmatch`.

    It does not go back over a name again and again: fnmatch makes each `*` but the last take the shortest text only.
    """
    return re.compile(fnmatch.translate(same(pattern).replace("[", "[[]")))


class Globs:
    """Some patterns, any of which a name may fit."""

    def __init__(self, patterns: Iterable[str]) -> None:
        distinct = dict.fromkeys(patterns)
        self._names: frozenset[str] = frozenset(pattern for pattern in distinct if not is_wild(pattern))
        self._wild: dict[str, list[re.Pattern[str]]] = {}
        self._open: set[str] = set()
        """The starts of patterns that are only that and a `*`."""
        for pattern in distinct:
            if pattern in self._names:
                continue
            if pattern == beginning(pattern) + "*":
                self._open.add(pattern[:-1])
            else:
                self._wild.setdefault(beginning(pattern), []).append(compiled(pattern))
        self._lengths: list[int] = sorted({len(text) for text in (*self._open, *self._wild)})

    def fits(self, name: str) -> bool:
        """Tell whether a name fits one of the patterns."""
        if name in self._names:
            return True
        for length in self._lengths:
            if length > len(name):
                return False
            begin = name[:length]
            if begin in self._open or any(glob.fullmatch(name) for glob in self._wild.get(begin, ())):
                return True
        return False


def rank(pattern: str) -> tuple[int, int, str]:
    """Return what orders patterns, the best first."""
    stars = pattern.count("*")
    return stars + pattern.count("?") - len(pattern), stars, pattern


def same(pattern: str) -> str:
    """Return the plainest pattern that fits the same names."""
    return _RUN.sub(lambda run: "?" * run[0].count("?") + "*", pattern)


class Ranked:
    """Some patterns, of which a name is matched by the best that fits."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._beginnings: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
        """For each text that patterns begin with: their places in the order, and how they match."""
        self._order: list[str] = sorted(dict.fromkeys(patterns), key=rank)
        for place, pattern in enumerate(self._order):
            self._beginnings.setdefault(beginning(pattern), []).append((place, compiled(pattern)))
        self._lengths: list[int] = sorted({len(text) for text in self._beginnings})

    def best(self, name: str) -> str | None:
        """Return the best pattern that fits a name; None where none does."""
        found = len(self._order)
        for length in self._lengths:
            if length > len(name):
                break
            for place, glob in self._beginnings.get(name[:length], ()):
                if place >= found:
                    break
                if glob.fullmatch(name):
                    found = place
        return self._order[found] if found < len(self._order) else None


def natural(name: str) -> tuple[tuple[object, ...], str]:
    """Return what puts names in the order that people expect: 9B before 35B, whatever the case of letters."""
    pieces = _NUMBER.split(name.casefold())
    return tuple([int(piece) if index % 2 else piece for index, piece in enumerate(pieces)]), name


def tagged_or_not(name: str) -> str:
    """Return the other way to write a name: without Ollama's default tag, which needs not be written, or with it."""
    return name.removesuffix(_TAG) if name.endswith(_TAG) else name + _TAG

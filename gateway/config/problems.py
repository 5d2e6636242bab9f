"""What can be wrong with a config file: a message at a place, and all of them together in one error.

Rules:
- A message is one line that a user can act on. It never holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.similar import Similar


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a config file. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(Exception):
    """A config file cannot be used. Holds every problem found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort the problems and drop repeated ones."""
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def closest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` was probably meant to be; None where no name is close."""
    return Similar(names).closest(word)


def quote(text: str) -> str:
    """Return text of the file as a problem shows it: in quotes, on one line, shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:80])
    return f"'{shown}…'" if len(text) > 80 else f"'{shown}'"

"""How far a long command is, on stderr: a bar that is drawn again and again on a terminal, lines elsewhere.

Rules:
- Nothing is written but by `show` and `end`, which the command calls as often as it likes.
- A terminal gets its line back: the last bar stays, and ends its line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

from gateway.console.frames import cut

_DRAW: Final = 0.2
"""Seconds between two bars."""
_TELL: Final = 10.0
"""Seconds between two lines where there is no terminal."""
_BAR: Final = 30
"""Characters of the bar."""


class Progress:
    """The progress of so many things, of which some were done before."""

    def __init__(
        self,
        total: int,
        before: int = 0,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: Callable[[float], str] | None = None,
    ) -> None:
        """`before` of the `total` things were done before this run: they count as done, and not for the speed.

        `shown` writes an amount, such as bytes; None for numbers of things.
        """
        self._out: TextIO = sys.stderr if out is None else out
        self._clock = clock
        self._total = total
        self._before = before
        self._shown = shown
        self._began = clock()
        self._is_terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._next = self._began + (0.0 if self._is_terminal else _TELL)

    def show(self, done: int, failed: int) -> None:
        """Show that so many are done, of which some failed, if it is time to show something."""
        now = self._clock()
        if now >= self._next:
            self._next = now + (_DRAW if self._is_terminal else _TELL)
            self._write(done, failed, now, "\r" if self._is_terminal else "\n")

    def end(self, done: int, failed: int) -> None:
        """Show where it ended."""
        self._write(done, failed, self._clock(), "\n")

    def _write(self, done: int, failed: int, now: float, end: str) -> None:
        line = words(done, self._total, failed, self._before, now - self._began, self._shown)
        if self._is_terminal:
            filled = _BAR * done // self._total if self._total else _BAR
            line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {line}"
            line = "\r" + cut(line, shutil.get_terminal_size().columns - 1) + "\x1b[K"
        self._out.write(line + (end if end != "\r" else ""))
        self._out.flush()


def words(
    done: int,
    total: int,
    failed: int,
    before: int,
    seconds: float,
    shown: Callable[[float], str] | None = None,
) -> str:
    """Return how far it is after so many seconds, how fast it goes, and about how long it still takes."""
    parts = [f"{done}/{total}" if shown is None else f"{shown(done)} of {shown(total)}"]
    if failed:
        parts.append(f"{failed} failed")
    rate = (done - before) / seconds if seconds > 0 else 0.0
    if rate > 0:
        parts.append(f"{rate:.{0 if rate >= 10 else 1}f}/s" if shown is None else f"{shown(rate)}/s")
        if done < total:
            parts.append(f"{_clock_of((total - done) / rate)} left")
    return ", ".join(parts)


def _clock_of(seconds: float) -> str:
    """Return a duration as `h:mm:ss` or `m:ss`."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"

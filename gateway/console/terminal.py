"""The terminal that `gateway top` draws on: taken over and given back as it was, whatever happens.

Rules:
- Plain control sequences that every terminal of the last decades knows; none where stdout is no terminal.
- The screen that was there comes back, with the cursor and the way input was read: at the end, on Ctrl-C, on SIGTERM
  and SIGHUP, and while the job is stopped by Ctrl-Z.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gateway.console.frames import Line

_TAKE, _GIVE_BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The other screen, without a cursor; and back."""
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
USUAL_SIZE = (80, 24)
"""Columns and lines of a terminal that does not say how large it is."""
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


class Screen:
    """A terminal to draw frames on, or a stream that takes one frame after the other."""

    def __init__(self) -> None:
        """Take nothing over yet."""
        self.is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._keys = self.is_terminal and sys.stdin.isatty()
        self._modes: list[Any] = []
        self._woken, self._waker = -1, -1

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and lines; None where frames may be as large as they are."""
        if not self.is_terminal:
            return None
        # Not what the environment says (COLUMNS, LINES), which is how large the terminal was when the shell started.
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            if columns and lines:
                return columns, lines
        return USUAL_SIZE

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the terminal for frames as long as the context is open."""
        if not self.is_terminal:
            yield
            return
        self._take()
        try:
            with self._signals():
                yield
        finally:
            self._give_back()

    def draw(self, lines: list[Line]) -> None:
        """Show a frame instead of the one before."""
        if not self.is_terminal:
            print("\n".join(line.text for line in lines), end="\n\n", flush=True)
            return
        shown = (f"{_BOLD}{line.text}{_PLAIN}" if line.bold else line.text for line in lines)
        sys.stdout.write(_HOME + "\n".join(text + _REST_OF_LINE for text in shown) + _REST)
        sys.stdout.flush()

    def key(self, seconds: float) -> str | None:
        """Wait for a key at most so long. Return it; empty if the size has changed, None if nothing has happened."""
        sources = [sys.stdin] if self._keys else []
        woken = [self._woken] if self._woken >= 0 else []
        if not sources and not woken:
            time.sleep(seconds)
            return None
        ready, _, _ = select.select([*sources, *woken], [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 512)
            return ""
        if not ready:
            return None
        key = os.read(sys.stdin.fileno(), 1).decode(errors="replace")
        if not key:
            # Whoever typed is gone; without this every wait would end at once.
            self._keys = False
        return key or None

    def _take(self) -> None:
        if self._keys:
            self._modes = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        sys.stdout.write(_TAKE)
        sys.stdout.flush()

    def _give_back(self) -> None:
        # The terminal may be gone, which ends the command too.
        with contextlib.suppress(OSError, termios.error):
            sys.stdout.write(_GIVE_BACK)
            sys.stdout.flush()
        if self._modes:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Notice a new size, and end or stop properly."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            signal.SIGWINCH: lambda *_: None,
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
            signal.SIGTSTP: self._stop,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        old = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._waker)
            self._woken = self._waker = -1

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal back while the job is stopped."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

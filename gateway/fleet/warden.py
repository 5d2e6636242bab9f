"""A program between the gateway and one engine: it ends the engine when the gateway ends, for whatever reason.

Started as `python -I -S warden.py --grace SECONDS -- argv...`, with the gateway's end of a pipe or socket as stdin.

Rules:
- End of file on stdin and SIGTERM mean: SIGTERM to all the engine started, SIGKILL to what is left after the grace.
- Ctrl-C in the terminal does nothing here. The gateway gets it as well, drains first, and then closes stdin.
- When the engine ends, everything it forked is ended. The warden exits last, with the engine's exit status (128 + n
  for signal n).
- Where stdin is a socket, the engine's process id is written to it as one line, and `gone` as another one as soon as
  that process has ended, before what it forked is cleared away.
- Only the standard library, nothing of the gateway: it starts in milliseconds and holds little memory.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
CANNOT_RUN, NOT_FOUND, USAGE = 126, 127, 2
"""Exit statuses as shells use them."""
TICK = 0.05
"""Seconds between looks at processes that send no signal when they end."""


@dataclass(frozen=True)
class Entry:
    """One line of the process table."""

    pid: int
    parent: int
    group: int


def process_table() -> list[Entry]:
    """Return every process that has not ended, from /proc (Linux)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command stands in parentheses and may hold anything: fields follow the last one.
                state, parent, group = file.read().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if state not in (b"Z", b"X"):
            found.append(Entry(int(name), int(parent), int(group)))
    return found


def descendants(root: int, table: list[Entry]) -> list[Entry]:
    """Return the processes below `root`, parents before children."""
    children: dict[int, list[Entry]] = {}
    for entry in table:
        children.setdefault(entry.parent, []).append(entry)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += [entry.pid for entry in below]
    return found


class Engine:
    """The engine's process and everything it forked.

    As a subreaper the warden inherits every descendant whose parent ends, so on Linux it finds all of them, even those
    with a session of their own. Elsewhere it only knows the process group.
    """

    def __init__(self, argv: list[str]) -> None:
        """Start the engine. Raises OSError where there is nothing to run."""
        self.status: int | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
        if self._libc is not None:
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.pid = self._spawn(argv)

    def _spawn(self, argv: list[str]) -> int:
        """Start the engine in a session of its own. Raises OSError where there is nothing to run."""
        failure, failed = os.pipe()
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(failure)
            self._become(argv, warden, failed)
        os.close(failed)
        with os.fdopen(failure, "rb") as pipe:
            number = pipe.read()
        if number:
            os.waitpid(pid, 0)
            raise OSError(int(number), os.strerror(int(number)), argv[0])
        return pid

    def _become(self, argv: list[str], warden: int, failed: int) -> None:
        """Turn the child process into the engine; on failure, write the number of the error to `failed` and exit."""
        try:
            os.setsid()
            if self._libc is not None:
                # Should the warden itself be killed with -9, the kernel ends the engine.
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != warden:
                    return  # it was, before the kernel knew
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(argv[0], argv)  # noqa: S606
        except OSError as error:
            os.write(failed, str(error.errno).encode())
        finally:
            os._exit(CANNOT_RUN)

    def reap(self) -> None:
        """Collect the exit status of whatever has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code

    @property
    def gone(self) -> bool:
        """Whether the engine and all it forked have ended."""
        if self.status is None:
            return False
        if LINUX:
            return not descendants(os.getpid(), process_table())
        try:
            os.killpg(self.pid, 0)
        except OSError:
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the engine and all it forked, once each."""
        if not LINUX:
            _quietly(lambda: os.killpg(self.pid, number))
            return
        left = descendants(os.getpid(), process_table())
        if any(entry.group == self.pid for entry in left):
            _quietly(lambda: os.killpg(self.pid, number))
        for entry in left:
            if entry.group != self.pid:
                _quietly(lambda pid=entry.pid: os.kill(pid, number))  # type: ignore[misc]


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except ProcessLookupError:
        pass


class Bell:
    """The end of a wait: a signal has come, or the gateway has closed stdin."""

    def __init__(self) -> None:
        """Take over the process's signals."""
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # Handlers and not SIG_IGN: an ignored signal would stay ignored in the engine.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, _nothing)
        signal.signal(signal.SIGTERM, self._on_term)
        self.told_to_stop = False

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.told_to_stop = True

    def wait(self, seconds: float | None) -> None:
        """Wait for a signal or the end of stdin, at most so many seconds; None: without a limit."""
        ends = [self._read] if self.told_to_stop else [self._read, 0]
        ready, _, _ = select.select(ends, [], [], seconds)
        if self._read in ready:
            os.read(self._read, 4096)
        if 0 in ready and not _heard():
            self.told_to_stop = True


def _heard() -> bytes:
    """Return what came on stdin; nothing at its end."""
    try:
        return os.read(0, 4096)
    except OSError:
        return b""


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: this signal only has to end the wait."""


def tell(word: str) -> None:
    """Write a line to the gateway."""
    try:
        os.write(0, f"{word}\n".encode())
    except OSError:
        pass  # a pipe, which can only be read; or nobody reads any more


def watch(engine: Engine, bell: Bell, grace: float) -> int:
    """Wait until the engine and all it forked have ended.

    End them when told to stop, or when the engine itself has ended. Return its exit status.
    """
    deadline: float | None = None
    told = False
    while True:
        engine.reap()
        if engine.status is not None and not told:
            told = True
            tell("gone")
        if engine.gone:
            return engine.status or 0
        if deadline is None and (bell.told_to_stop or engine.status is not None):
            engine.signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
        elif deadline is not None and time.monotonic() >= deadline:
            engine.signal(signal.SIGKILL)
        bell.wait(None if deadline is None else TICK)


def main(arguments: list[str]) -> int:
    """Run the command after `--`. Returns the exit status."""
    if len(arguments) < 4 or arguments[0] != "--grace" or arguments[2] != "--":
        sys.stderr.write("usage: warden.py --grace SECONDS -- argv...\n")
        return USAGE
    bell = Bell()
    try:
        engine = Engine(arguments[3:])
    except OSError as error:
        sys.stderr.write(f"cannot run {arguments[3]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    tell(str(engine.pid))
    return watch(engine, bell, float(arguments[1]))


if __name__ == "__main__":
    # Not sys.exit: there is nothing to clean up, and no exit handler may fail now.
    os._exit(main(sys.argv[1:]))

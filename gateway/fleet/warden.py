"""A program between the gateway and one engine: it ends the engine when the gateway ends, for whatever reason.

Started as `python -I -S warden.py --grace SECONDS [--folder PATH] [--remove] [--stop COUNT] [--adopt SECONDS
--door PATH --left PATH] -- [stop...] argv...`, with the gateway's end of a pipe or socket as stdin. Of the words after
`--`, the first COUNT are the stop command.

Rules:
- End of file on stdin and SIGTERM mean: SIGTERM to all the engine started, SIGKILL to what is left after the grace.
- With a stop command that is run first, and the engine has the grace to end because of it. SIGTERM follows where the
  command fails or the grace is over, and SIGKILL two seconds later, or after the rest of the grace.
- The stop command is also run when the engine has ended by itself, for what it had others start, such as a container.
- The engine and its stop command work in the folder. `--remove` removes it when all of them have ended.
- Ctrl-C in the terminal does nothing here. The gateway gets it as well, drains first, and then closes stdin.
- When the engine ends, everything it forked is ended. The warden exits last, with the engine's exit status (128 + n
  for signal n).
- Where stdin is a socket, the engine's process id is written to it as one line, and `gone` as another one as soon as
  that process has ended, before what it forked is cleared away.
- With `--adopt` it is a child of nobody's, and passes on what the engine prints. The end of stdin alone means then that
  the gateway has gone: it keeps the engine for so many seconds, and listens at the socket `--door`. Who knows the
  token, which came in an environment variable, and sends a pipe for the output, is the gateway from then on. It is told
  the warden's process id, the engine's, and at last `exit N`; it has the engine ended by `end`. At the end the warden
  removes the socket, and the file `--left`, which tells the next gateway of the engine, if it holds this token.
- Only the standard library, nothing of the gateway: it starts in milliseconds and holds little memory. It is one file,
  and a long one, because a program started by its path with `-I` can import no file beside it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
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
AFTER_STOP = 2.0
"""Seconds from SIGTERM to SIGKILL at least, where a stop command has used up the grace."""


@dataclass(frozen=True)
class Orders:
    """What the command line says."""

    grace: float
    folder: str
    remove: bool
    stop: list[str]
    argv: list[str]
    adopt: float = 0.0
    door: str = ""
    left: str = ""


def orders_of(arguments: list[str]) -> Orders | None:
    """Return what the command line says; None where it is wrong."""
    grace, folder, remove, count = -1.0, "", False, 0
    adopt, door, left = 0.0, "", ""
    words = iter(arguments)
    try:
        for word in words:
            if word == "--":
                break
            if word == "--grace":
                grace = float(next(words))
            elif word == "--folder":
                folder = next(words)
            elif word == "--stop":
                count = int(next(words))
            elif word == "--adopt":
                adopt = float(next(words))
            elif word == "--door":
                door = next(words)
            elif word == "--left":
                left = next(words)
            elif word == "--remove":
                remove = True
            else:
                return None
    except (StopIteration, ValueError):
        return None
    rest = list(words)
    if grace < 0 or len(rest) <= count:
        return None
    return Orders(grace, folder, remove, rest[:count], rest[count:], adopt, door, left)


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

    def __init__(self, argv: list[str], folder: str = "", output: int = -1) -> None:
        """Start the engine in a folder, printing to a file. Raises OSError where there is nothing to run."""
        self.status: int | None = None
        self.stopping: int | None = None
        """The process id of the stop command while it runs."""
        self.stop_failed = False
        self._folder = folder
        self._output = output
        self._libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
        if self._libc is not None:
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.pid = self._spawn(argv)

    def stop(self, argv: list[str]) -> None:
        """Start the stop command. What it prints is of no interest once the engine has ended by itself."""
        try:
            self.stopping = self._spawn(argv, quiet=self.status is not None)
        except OSError as error:
            sys.stderr.write(f"cannot run the stop command {argv[0]}: {error.strerror}\n")
            self.stop_failed = True

    def _spawn(self, argv: list[str], quiet: bool = False) -> int:
        """Start a command in a session of its own. Raises OSError where there is nothing to run."""
        failure, failed = os.pipe()
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(failure)
            self._become(argv, warden, failed, quiet)
        os.close(failed)
        with os.fdopen(failure, "rb") as pipe:
            number = pipe.read()
        if number:
            os.waitpid(pid, 0)
            raise OSError(int(number), os.strerror(int(number)), argv[0])
        return pid

    def _become(self, argv: list[str], warden: int, failed: int, quiet: bool) -> None:
        """Turn the child process into the command; on failure, write the number of the error to `failed` and exit."""
        try:
            os.setsid()
            if self._libc is not None:
                # Should the warden itself be killed with -9, the kernel ends the engine.
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != warden:
                    return  # it was, before the kernel knew
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2) if self._output >= 0 else ():
                os.dup2(self._output, number)
            for number in (0, 1, 2) if quiet else (0,):
                os.dup2(nothing, number)
            if self._folder:
                os.chdir(self._folder)
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
            elif pid == self.stopping:
                self.stopping, self.stop_failed = None, status != 0

    @property
    def gone(self) -> bool:
        """Whether the engine and all it forked have ended."""
        if self.status is None or self.stopping is not None:
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
            for group in (self.pid, self.stopping):
                if group is not None:
                    _quietly(lambda group=group: os.killpg(group, number))  # type: ignore[misc]
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

    def __init__(self, ties: Ties | None = None) -> None:
        """Take over the process's signals. `ties` are those to a gateway that may be followed by another."""
        self._ties = ties
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
        ties = self._ties
        if ties is not None:
            self.told_to_stop |= ties.wait(self._read, seconds)
            return
        ends = [self._read] if self.told_to_stop else [self._read, 0]
        ready, _, _ = select.select(ends, [], [], seconds)
        if self._read in ready:
            os.read(self._read, 4096)
        if 0 in ready and not _heard():
            self.told_to_stop = True


class Ties:
    """What ties an engine to one gateway after another: the one of now, or the time until there must be one."""

    def __init__(self, orders: Orders, token: str) -> None:
        """Begin with the gateway at stdin and stdout."""
        self._orders = orders
        self._token = token
        self.engine: Engine | None = None
        self._door: socket.socket | None = None
        """Open while there is no gateway."""
        self._until = 0.0
        self._ended = False
        self._output, self.engines = os.pipe()
        """What the engine prints, and the end it prints to."""
        self._pending = b""
        os.set_blocking(self._output, False)
        os.set_blocking(1, False)

    def wait(self, bell: int, seconds: float | None) -> bool:
        """Wait as `Bell.wait` does, and pass on output meanwhile. Return whether the engine is to end."""
        if self._door is not None:
            left = max(0.0, self._until - time.monotonic())
            seconds = left if seconds is None else min(left, seconds)
        ends = [bell] if self._pending else [bell, self._output]
        if self._door is not None:
            ends.append(self._door.fileno())
        elif not self._ended:
            ends.append(0)
        ready, writable, _ = select.select(ends, [1] if self._pending else [], [], seconds)
        if bell in ready:
            os.read(bell, 4096)
        if self._output in ready or writable:
            self.pass_on()
        if self._door is not None:
            if self._door.fileno() in ready:
                self._open()
            if self._door is None or time.monotonic() < self._until:
                return False
            self._close()
            self._ended = True
            return True
        if 0 in ready and not self._ended:
            self._ended = True
            return bool(_heard()) or not self._wait_for_another()
        return False

    def pass_on(self) -> bool:
        """Pass on what the engine has printed. Return whether there may be more."""
        try:
            self._pending = self._pending or os.read(self._output, 65536)
        except OSError:
            return False
        try:
            self._pending = self._pending[os.write(1, self._pending) :]
        except BlockingIOError:
            return False
        except OSError:
            self._pending = b""  # nobody reads any more
        return True

    def _wait_for_another(self) -> bool:
        """Listen for the next gateway. Return whether it can find the engine."""
        before = os.umask(0o077)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _anyway(os.unlink, self._orders.door)
        try:
            # The whole path may be longer than the address of a socket can be.
            os.chdir(os.path.dirname(self._orders.door))
            door.bind(os.path.basename(self._orders.door))
            door.listen(4)
        except OSError:
            door.close()
            return False
        finally:
            os.umask(before)
        self._door, self._ended = door, False
        self._until = time.monotonic() + self._orders.adopt
        return True

    def _close(self) -> None:
        """Listen no more."""
        assert self._door is not None
        self._door.close()
        self._door = None
        _anyway(os.unlink, self._orders.door)

    def clear(self) -> None:
        """Leave nothing that tells of the engine, which has ended."""
        if self._door is not None:
            self._close()
        _anyway(self._remove_left, self._orders.left)

    def _remove_left(self, path: str) -> None:
        with open(path, "rb") as file:
            ours = self._token.encode() in file.read()
        if ours and self._token:
            os.unlink(path)

    def _open(self) -> None:
        """Let somebody in who knows the token, and has brought a pipe for the output."""
        assert self._door is not None and self.engine is not None
        try:
            guest, _ = self._door.accept()
        except OSError:
            return
        with guest:
            guest.settimeout(1.0)
            try:
                said, pipes, _, _ = socket.recv_fds(guest, 256, 1)
            except OSError:
                return
            if said == f"{self._token}\n".encode() and pipes:
                guest.setblocking(True)
                os.dup2(guest.fileno(), 0)
                os.dup2(pipes[0], 1)
                os.dup2(pipes[0], 2)
                os.set_blocking(1, False)
                self._close()
                tell(str(os.getpid()))
                tell(str(self.engine.pid))
            for pipe in pipes:
                os.close(pipe)


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


def watch(engine: Engine, bell: Bell, orders: Orders) -> int:
    """Wait until the engine and all it forked have ended.

    End them when told to stop, or when the engine itself has ended. Return its exit status.
    """
    end = End(engine, orders)
    told = False
    while True:
        engine.reap()
        if engine.status is not None and not told:
            told = True
            tell("gone")
        ending = bell.told_to_stop or engine.status is not None
        if engine.gone and (end.begun or not orders.stop):
            return engine.status or 0
        if ending:
            end.go_on(time.monotonic())
        bell.wait(TICK if ending else None)


class End:
    """The end of an engine, step by step: the stop command, SIGTERM, SIGKILL."""

    def __init__(self, engine: Engine, orders: Orders) -> None:
        """Do nothing yet."""
        self.begun = False
        self._engine = engine
        self._orders = orders
        self._deadline = 0.0
        self._terminated = False

    def go_on(self, now: float) -> None:
        """Take the next step, if it is time for it; `now` is of a clock that is never set."""
        engine, orders = self._engine, self._orders
        if not self.begun:
            self.begun, self._deadline = True, now + orders.grace
            if orders.stop:
                engine.stop(orders.stop)
        if self._terminated:
            if now >= self._deadline:
                engine.signal(signal.SIGKILL)
        elif not orders.stop or now >= self._deadline or self._stopped:
            engine.signal(signal.SIGTERM)
            self._terminated = True
            if orders.stop:
                self._deadline = max(self._deadline, now + AFTER_STOP)

    @property
    def _stopped(self) -> bool:
        """Whether the stop command can do nothing more: it has failed, or it is done and the engine has ended."""
        return self._engine.stop_failed or (self._engine.stopping is None and self._engine.status is not None)


def main(arguments: list[str]) -> int:
    """Run the command after `--`. Returns the exit status."""
    orders = orders_of(arguments)
    if orders is None:
        sys.stderr.write(
            "usage: warden.py --grace SECONDS [--folder PATH] [--remove] [--stop COUNT] -- [stop...] argv...\n"
        )
        return USAGE
    ties = None
    if orders.adopt:
        if os.fork():
            return 0  # whoever has started this process is not its parent any more
        ties = Ties(orders, os.environ.pop("GATEWAY_WARDEN_TOKEN", ""))
        tell(str(os.getpid()))
    status = run(orders, ties)
    if ties is not None:
        while ties.pass_on():
            pass
        ties.clear()
        tell(f"exit {status}")
    return status


def run(orders: Orders, ties: Ties | None) -> int:
    """Run the engine to its end. Returns its exit status."""
    bell = Bell(ties)
    try:
        engine = Engine(orders.argv, orders.folder, -1 if ties is None else ties.engines)
    except OSError as error:
        sys.stderr.write(f"cannot run {orders.argv[0]}: {error.strerror}\n")
        sys.stderr.flush()
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    if ties is not None:
        ties.engine = engine
    tell(str(engine.pid))
    status = watch(engine, bell, orders)
    if orders.remove:
        remove(orders.folder)
    return status


def remove(folder: str) -> None:
    """Remove a folder and what is in it, as far as that is possible."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            _anyway(os.unlink, os.path.join(path, name))
        for name in folders:
            below = os.path.join(path, name)
            _anyway(os.unlink if os.path.islink(below) else os.rmdir, below)
    _anyway(os.rmdir, folder)


def _anyway(act: Callable[[str], None], path: str) -> None:
    try:
        act(path)
    except OSError:
        pass  # it is not ours, or gone


if __name__ == "__main__":
    # Not sys.exit: there is nothing to clean up, and no exit handler may fail now.
    os._exit(main(sys.argv[1:]))

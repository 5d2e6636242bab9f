"""Engines that outlive the gateway: what it leaves for the next one, and how that one takes them over.

Rules:
- Such an engine has a warden that is no child of the gateway's. When the gateway ends, for whatever reason, the warden
  keeps the engine for a while and listens at a socket; whoever knows the token takes it over. Nobody comes: it ends.
- A file tells the next gateway where (`gateway.fleet.left`). The socket lies beside it.
- The engine itself is never asked who it is. Whoever listens on its port without its warden is a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from backends.base import Launch
from gateway.fleet.left import Adopting, Left, Mark, digest, read
from gateway.fleet.spawning import Folder, child_environment, warden_command

TOKEN = "GATEWAY_WARDEN_TOKEN"
PATIENCE = 5.0
"""Seconds for a warden to answer, or to notice that its gateway is gone."""
LONGEST_BIRTH = 30.0
"""Seconds for a warden that is being started to say that it is there: the machine may be very busy."""
LONGEST_END = 60.0
"""Seconds to wait for the end of an engine that was launched otherwise."""

log = logging.getLogger("gateway.fleet")


class Remote:
    """A warden that is no child of this process; to whoever waits for it, it is like one."""

    def __init__(
        self, control: socket.socket, stdout: asyncio.StreamReader, pipe: asyncio.BaseTransport
    ) -> None:
        """Speak to it through a socket; its output comes through a pipe."""
        self.control = control
        self.stdout = stdout
        self.returncode: int | None = None
        self.pid = 0
        self._pipe = pipe
        self._heard = b""

    async def hear(self) -> bytes:
        """Return the warden's next line, without its end; nothing when it has ended."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._heard:
            more = await loop.sock_recv(self.control, 256)
            if not more:
                return b""
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        if line.startswith(b"exit "):
            self.returncode = int(line[5:])
            return b""
        return line

    async def greet(self, patience: float) -> None:
        """Read who it is. Raise OSError if it has ended, or does not say so."""
        async with asyncio.timeout(patience):
            line = await self.hear()
        if not line.isdigit():
            raise OSError("its warden has ended")
        self.pid = int(line)

    async def wait(self) -> int:
        """Wait until it has ended, and return the engine's exit status."""
        while self.returncode is None:
            if not await self.hear() and self.returncode is None:
                self.returncode = -signal.SIGKILL
        return self.returncode

    def kill(self) -> None:
        """End it by force; the kernel ends the engine then."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Have it end the engine. Otherwise it keeps the engine when this process leaves."""
        with contextlib.suppress(OSError):
            self.control.send(b"end")

    def leave(self) -> None:
        """Read no more of the engine's output."""
        self._pipe.close()


async def _remote(control: socket.socket, output: int, patience: float) -> Remote:
    """Return the warden at the other end of a socket and of a pipe."""
    control.setblocking(False)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
    )
    remote = Remote(control, reader, pipe)
    try:
        await remote.greet(patience)
    except BaseException:
        pipe.close()
        raise
    return remote


async def spawn(launch: Launch, folder: Folder, mark: Mark) -> Remote:
    """Start an engine under a warden that outlives this process. Raise OSError if that does not work.

    However this fails, or is cancelled, the engine is ended: nobody would find it.
    """
    ours, theirs = socket.socketpair()
    output, write_end = os.pipe()
    more = ["--adopt", str(mark.adopting.seconds), "--door", str(mark.door.absolute())]
    more += ["--left", str(mark.file.absolute())]
    try:
        process = await asyncio.create_subprocess_exec(
            *warden_command(launch, folder, more),
            stdin=theirs.fileno(),
            stdout=write_end,
            stderr=write_end,
            env={**child_environment(os.environ, launch.env), TOKEN: mark.left.token},
            start_new_session=True,
        )
        await process.wait()
    except BaseException:
        _have_ended(ours)
        os.close(output)
        raise
    finally:
        theirs.close()
        os.close(write_end)
    try:
        return await _remote(ours, output, LONGEST_BIRTH)
    except BaseException:
        _have_ended(ours)
        raise


def _have_ended(control: socket.socket) -> None:
    """Have a warden that may not even listen yet end its engine, and leave."""
    with control, contextlib.suppress(OSError):
        control.send(b"end")


async def take_over(adopting: Adopting, left: Left) -> Remote | None:
    """Take over an engine that was left; None where its warden has ended, or is not alone."""
    output, write_end = os.pipe()
    try:
        control = await asyncio.to_thread(_knock, adopting.door(left.token), left.token, write_end)
    except OSError:
        os.close(output)
        return None
    finally:
        os.close(write_end)
    try:
        return await _remote(control, output, PATIENCE)
    except OSError:
        control.close()
        return None
    except BaseException:
        control.close()
        raise


def _knock(door: Path, token: str, output: int) -> socket.socket:
    """Connect to a warden, with the token and the pipe for the engine's output. Raise OSError if nobody is there."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(door.parent, os.O_RDONLY)
    # The whole path may be longer than the address of a socket can be.
    short = f"/proc/self/fd/{folder}/{door.name}" if sys.platform == "linux" else str(door)
    try:
        control.settimeout(PATIENCE)
        control.connect(short)
        socket.send_fds(control, [f"{token}\n".encode()], [output])
    except OSError:
        control.close()
        raise
    finally:
        os.close(folder)
    return control


class Found(NamedTuple):
    """An engine that was taken over."""

    launch: Launch
    mark: Mark
    remote: Remote


class Succession:
    """What becomes of an engine that was left, as one backend is configured now."""

    def __init__(
        self,
        adopting: Adopting,
        name: str,
        command: Callable[[Left], Launch],
        own_key: Callable[[], str | None],
    ) -> None:
        """`command` tells how the engine would be started now, where it is; `own_key` the key that the config has."""
        self._adopting = adopting
        self._name = name
        self._command = command
        self._own_key = own_key

    async def take(self, lock: int) -> Found | None:
        """Take over the engine that was left, if it was started as it would be now; end one that was not.

        `lock` is the right to it (`hold`).
        """
        left = read(self._adopting, self._name)
        if left is None:
            return None
        mark = Mark(self._adopting, self._name, left, lock)
        remote = await take_over(self._adopting, left) if await self._is_alone(left) else None
        if remote is None:
            mark.forget()
            return None
        launch = self._wanted(left)
        if launch is not None:
            log.info("backend '%s' is taken over from the gateway before", self._name)
            return Found(launch, mark, remote)
        log.info(
            "backend '%s': the engine left by the gateway before ends, as it was launched otherwise",
            self._name,
        )
        await end(remote)
        mark.forget()
        return None

    def _wanted(self, left: Left) -> Launch | None:
        """Return how an engine that was left was started, if it would be started so now."""
        try:
            launch = self._command(left)
        except Exception:  # noqa: BLE001 (whatever it is, the next start will tell)
            return None
        if left.key is not None and launch.key_env is not None and launch.key_env not in launch.env:
            launch = replace(launch, env={**launch.env, launch.key_env: left.key})
        own = self._own_key()
        same = digest(launch) == left.digest and (own is None or left.key is None or own == left.key)
        return launch if same else None

    async def _is_alone(self, left: Left) -> bool:
        """Wait until its warden listens, which it does once it has noticed that its gateway is gone.

        One that has given up waiting keeps its file until the engine has ended, which is waited for here.
        """
        door, loop = self._adopting.door(left.token), asyncio.get_running_loop()
        began = loop.time()
        while not door.exists():
            patience = LONGEST_END if _has_warden(left.pid, door) else PATIENCE
            if loop.time() - began > patience or (left.pid and not _runs(left.pid)):
                return False
            await asyncio.sleep(0.05)
        return True


async def end(remote: Remote) -> None:
    """Have an engine that was taken over ended, and wait for that."""
    remote.end()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_END):
                await remote.wait()
    finally:
        leave(remote)


def leave(remote: Remote) -> None:
    """Leave an engine that was taken over to the next gateway, unless it was told to end."""
    remote.leave()
    remote.control.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _has_warden(pid: int, door: Path) -> bool:
    """Tell whether a process is the child of the warden with this door, as far as the system tells (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        words = Path(f"/proc/{int(stat[1])}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return False
    return os.fsencode(door.absolute()) in words

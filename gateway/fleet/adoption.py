"""Engines that outlive the gateway: what it leaves for the next one, and how that one takes them over.

Rules:
- Such an engine has a warden that is no child of the gateway's. When the gateway ends, for whatever reason, the warden
  keeps the engine for a while and listens at a socket; whoever knows the token takes it over. Nobody comes: it ends.
- A file tells the next gateway where: the token, the port, the key, and a digest of what the engine was started with.
  File and socket lie in a folder that nobody else may enter.
- The engine itself is never asked who it is. Whoever listens on its port without its warden is a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from backends.base import Launch
from gateway.fleet.spawning import Folder, child_environment, warden_command

TOKEN = "GATEWAY_WARDEN_TOKEN"
WARDENS = "wardens"
"""The folder below `server.data`."""
PATIENCE = 5.0
"""Seconds for a warden to answer."""
LONGEST_END = 60.0
"""Seconds to wait for the end of an engine that was launched otherwise."""

log = logging.getLogger("gateway.fleet")


@dataclass(frozen=True, slots=True)
class Adopting:
    """Where engines are left, and for how long."""

    folder: Path
    seconds: float

    def file(self, name: str) -> Path:
        """Return the file that tells of a backend's engine."""
        return self.folder / f"{name}.json"

    def door(self, name: str) -> Path:
        """Return the socket at which its warden listens once it is alone."""
        return self.folder / f"{name}.sock"


class Left(msgspec.Struct, frozen=True):
    """What a gateway has written of an engine."""

    token: str
    port: int
    pid: int
    digest: str
    began: float
    """When it was started, in seconds since 1970."""
    key: str | None = None


def digest(launch: Launch) -> str:
    """Return a short form of everything that an engine is started with."""
    said = [
        launch.argv,
        sorted(launch.env.items()),
        launch.stop,
        launch.port,
        launch.stop_timeout,
        launch.key_env,
    ]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def write(adopting: Adopting, name: str, left: Left) -> None:
    """Tell the next gateway of an engine. Raise OSError if that cannot be written."""
    file = adopting.file(name)
    part = file.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(msgspec.json.encode(left))
    part.replace(file)


def read(adopting: Adopting, name: str) -> Left | None:
    """Return what was left of a backend's engine; None where there is nothing that can be used."""
    try:
        return msgspec.json.decode(adopting.file(name).read_bytes(), type=Left)
    except (OSError, msgspec.DecodeError):
        return None


def forget(adopting: Adopting, name: str) -> None:
    """Remove what was left of an engine."""
    for path in (adopting.file(name), adopting.door(name)):
        path.unlink(missing_ok=True)


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

    async def greet(self) -> None:
        """Read who it is. Raise OSError if it has ended."""
        async with asyncio.timeout(PATIENCE):
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


async def _remote(control: socket.socket, output: int) -> Remote:
    """Return the warden at the other end of a socket and of a pipe."""
    control.setblocking(False)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
    )
    remote = Remote(control, reader, pipe)
    try:
        await remote.greet()
    except BaseException:
        pipe.close()
        raise
    return remote


async def spawn(adopting: Adopting, name: str, launch: Launch, folder: Folder, token: str) -> Remote:
    """Start an engine under a warden that outlives this process. Raise OSError if that does not work."""
    adopting.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    output, write_end = os.pipe()
    more = ["--adopt", str(adopting.seconds), "--door", str(adopting.door(name).absolute())]
    try:
        process = await asyncio.create_subprocess_exec(
            *warden_command(launch, folder, more),
            stdin=theirs.fileno(),
            stdout=write_end,
            stderr=write_end,
            env={**child_environment(os.environ, launch.env), TOKEN: token},
            start_new_session=True,
        )
        await process.wait()
    except BaseException:
        ours.close()
        os.close(output)
        raise
    finally:
        theirs.close()
        os.close(write_end)
    try:
        return await _remote(ours, output)
    except BaseException:
        ours.close()
        raise


async def take_over(adopting: Adopting, name: str, left: Left) -> Remote | None:
    """Take over an engine that was left; None where its warden has ended, or is not alone."""
    output, write_end = os.pipe()
    try:
        control = await asyncio.to_thread(_knock, adopting.door(name), left.token, write_end)
    except OSError:
        os.close(output)
        return None
    finally:
        os.close(write_end)
    try:
        return await _remote(control, output)
    except (OSError, TimeoutError):
        control.close()
        return None


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
    left: Left
    remote: Remote


class Succession:
    """What becomes of an engine that was left, as one backend is configured now."""

    def __init__(
        self,
        adopting: Adopting,
        name: str,
        command: Callable[[int], Launch],
        own_key: Callable[[], str | None],
    ) -> None:
        """`command` tells how the engine would be started now, on a port; `own_key` the key that the config has."""
        self._adopting = adopting
        self._name = name
        self._command = command
        self._own_key = own_key

    async def settle(self) -> bool:
        """Tell whether there is an engine that can be taken over; end one that was started with other settings."""
        found = self._read()
        if found is None or not await self._is_alone(found[0]):
            return False
        if found[1] is not None:
            return True
        remote = await take_over(self._adopting, self._name, found[0])
        if remote is not None:
            log.info(
                "backend '%s': the engine left by the gateway before ends, as it was launched otherwise",
                self._name,
            )
            remote.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_END):
                    await remote.wait()
            remote.leave()
            remote.control.close()
        forget(self._adopting, self._name)
        return False

    async def adopt(self) -> Found | None:
        """Take over the engine, if there is one that was started as it would be now."""
        if not await self.settle() or (found := self._read()) is None or found[1] is None:
            return None
        remote = await take_over(self._adopting, self._name, found[0])
        if remote is None:
            return None
        log.info("backend '%s' is taken over from the gateway before", self._name)
        return Found(found[1], found[0], remote)

    def _read(self) -> tuple[Left, Launch | None] | None:
        """Return what was left, and how it was started, if it would be started so now."""
        left = read(self._adopting, self._name)
        if left is None:
            return None
        try:
            launch = self._command(left.port)
        except Exception:  # noqa: BLE001 (whatever it is, the next start will tell)
            return left, None
        if left.key is not None and launch.key_env is not None and launch.key_env not in launch.env:
            launch = replace(launch, env={**launch.env, launch.key_env: left.key})
        own = self._own_key()
        same = digest(launch) == left.digest and (own is None or left.key is None or own == left.key)
        return left, launch if same else None

    async def _is_alone(self, left: Left) -> bool:
        """Wait until its warden listens, which it does once it has noticed that its gateway is gone."""
        door, loop = self._adopting.door(self._name), asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while not door.exists():
            if loop.time() > until or not _runs(left.pid):
                return False
            await asyncio.sleep(0.05)
        return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0

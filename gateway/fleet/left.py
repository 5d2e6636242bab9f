"""What a gateway leaves of an engine for the next gateway: a file, and the right to it.

Rules:
- The file tells the token, the port, the key, and a digest of what the engine was started with. It is written before
  the engine is started, as a whole or not at all, and lies in a folder that nobody else may enter.
- One gateway at a time has the right to a file: it locks another one beside it as long as the engine is its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.base import Launch, LaunchError

WARDENS = "wardens"
"""The folder below `server.data`."""


@dataclass(frozen=True, slots=True)
class Adopting:
    """Where engines are left, and for how long."""

    folder: Path
    seconds: float

    def file(self, name: str) -> Path:
        """Return the file that tells of a backend's engine."""
        return self.folder / f"{name}.json"

    def door(self, token: str) -> Path:
        """Return the socket at which the warden that has this token listens once it is alone: each has its own.

        The name is short, as the address of a socket must be, and does not tell the token.
        """
        return self.folder / f"{hashlib.sha256(token.encode()).hexdigest()[:16]}.sock"


class Left(msgspec.Struct, frozen=True):
    """What a gateway has written of an engine."""

    token: str
    port: int
    pid: int
    """The engine's process; 0 while it is being started."""
    digest: str
    began: float
    """When it was started, in seconds since 1970."""
    key: str | None = None
    gpus: tuple[int, ...] | None = None
    """The GPUs on which it runs, where the gateway has chosen them."""
    load_seconds: float = 0.0
    """How long its start took; 0 before it was ready."""


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


def hold(adopting: Adopting, name: str) -> int:
    """Return the descriptor of a lock: the right to run a backend's engine below this folder, until it is closed.

    Raises LaunchError where another gateway has it, OSError where there can be no such file.
    """
    adopting.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(adopting.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        who = os.pread(lock, 20, 0).decode(errors="replace")
        os.close(lock)
        message = f"another gateway, process {who}, runs it: both have the same 'server.data'"
        raise LaunchError(message) from None
    except OSError:
        os.close(lock)
        raise
    return lock


class Mark:
    """What this gateway has written of an engine that is its own."""

    def __init__(self, adopting: Adopting, name: str, left: Left, lock: int) -> None:
        """Have the right to the file (`hold`), which is closed by `release`."""
        self.adopting = adopting
        self.left = left
        self.told = False
        """Whether the next gateway can find the engine."""
        self._name = name
        self._lock = lock

    @property
    def door(self) -> Path:
        """The socket at which its warden will listen."""
        return self.adopting.door(self.left.token)

    @property
    def file(self) -> Path:
        """The file."""
        return self.adopting.file(self._name)

    def tell(self, pid: int) -> None:
        """Write that the engine is this process. Raises OSError; then nobody finds it."""
        self.told = False
        self.left = msgspec.structs.replace(self.left, pid=pid)
        write(self.adopting, self._name, self.left)
        self.told = True

    def tell_loaded(self, seconds: float) -> None:
        """Write that its start took so long, where the next gateway can find it at all."""
        self.left = msgspec.structs.replace(self.left, load_seconds=seconds)
        if self.told:
            with contextlib.suppress(OSError):  # what was written before stays, and is enough
                write(self.adopting, self._name, self.left)

    def forget(self) -> None:
        """Remove the file: the engine has ended."""
        for path in (self.file, self.door):
            with contextlib.suppress(OSError):
                path.unlink()

    def release(self) -> None:
        """Let another gateway have the file."""
        os.close(self._lock)

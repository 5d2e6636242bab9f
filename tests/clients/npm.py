"""Clients that are npm packages: each installed once, in a folder of its own below the checkout.

Rules:
- A client that cannot be had here (no npm, no registry) is a reason to skip, never a failure.
- No install script of a package runs.
- A client is told no address but the gateway's; whatever else it asks for goes to a port where nobody listens.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

CLIENTS = Path(__file__).resolve().parents[2] / ".clients"
INSTALLING = 150.0
"""Seconds an installation may take."""
NOBODY = "http://127.0.0.1:9"


class Ended(NamedTuple):
    """A client that has ended."""

    status: int | None
    out: str
    err: str


def installed(name: str, package: str) -> Path:
    """Return the folder in which `package`, with its version, is installed; skip the test where it cannot be."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = CLIENTS / name
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != package:
            done.unlink(missing_ok=True)
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", f"--prefix={folder}"]
            try:
                subprocess.run([*command, package], check=True, capture_output=True, timeout=INSTALLING)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"{package} cannot be installed: {error}")
            done.write_text(package)
    return folder / "node_modules"


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

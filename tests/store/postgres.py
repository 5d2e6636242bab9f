"""A real PostgreSQL server for tests, of Debian's package, on a socket in a folder of its own.

Rules:
- The server refuses to run as root, so it runs as somebody who may nothing; its folder is theirs.
- One server for all tests of a process; each test gets a database of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.tools.debian import needed

PATIENCE: Final = 30.0


class Server:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        command = [str(needed("postgres")), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=log, **_somebody())
        until = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < until, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, with the connections that are open."""
        assert self.process is not None
        self.process.send_signal(3)  # SIGQUIT: an immediate shutdown
        self.process.wait(PATIENCE)

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://gateway:a-password@/{name}?host={self.folder}"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Run a server for as long as the context is open. Skip the test where there is no PostgreSQL."""
    initdb = needed("initdb")
    for program in (initdb, needed("postgres")):
        if subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
            pytest.skip(f"{program} does not run: the libraries of its package are not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Server(folder)
    try:
        if os.getuid() == 0:
            os.chown(folder, _somebody()["user"], -1)
        command = [
            str(initdb),
            "-D",
            str(folder / "data"),
            "-U",
            "gateway",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        ]
        made = subprocess.run([*command, "--no-locale"], capture_output=True, check=False, **_somebody())
        assert made.returncode == 0, made.stderr.decode()
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _somebody() -> dict[str, Any]:
    """Return how a process is started that is not root's."""
    return {"user": pwd.getpwnam("nobody").pw_uid, "extra_groups": [], "cwd": "/"} if os.getuid() == 0 else {}

"""A hub on this machine, and the `gateway` command run against it as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub.server import Store, hub

MODELS = Path(__file__).resolve().parents[2] / "models"


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


class Shell:
    """Runs the command with a hub and a cache of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self.within: tuple[str, ...] = ()
        """The command that runs the command: where it sees other disks."""
        self.env = {
            **os.environ,
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_CACHE": str(home / "scope"),
        }
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            self.env.pop(name, None)

    def run(self, *words: str, **env: str) -> Ran:
        command = [*self.within, sys.executable, "-m", "gateway", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**self.env, **env}, timeout=100, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store() -> Store:
    gguf = (MODELS / "demo.gguf").read_bytes()
    folder = {path.name: path.read_bytes() for path in sorted((MODELS / "demo").iterdir())}
    return Store(
        {
            "org/demo": {**folder, "README.md": b"# demo"},
            "org/demo-GGUF": {
                "demo-Q4_K_M.gguf": gguf,
                "demo-Q8_0.gguf": gguf + b"\0" * 1000,
                "README.md": b"#",
            },
        }
    )


@pytest.fixture
def shell(store: Store, tmp_path: Path) -> Iterator[Shell]:
    with hub(store) as url:
        yield Shell(url, tmp_path / "home")

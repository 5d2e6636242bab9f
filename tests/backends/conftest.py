"""What tests of engines share: an installed program, as far as a command line can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Provide a function that installs a program by name, as the only one on the PATH, and returns its path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str) -> str:
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return make

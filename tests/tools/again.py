"""Run pytest, and what failed beside other tests a few times more, alone: a machine may be too busy for a test.

Rules:
- A test that breaks fails here, too: it has to pass `TIMES` times in a row to be let off, with nothing beside it.
- More than `MOST` failures are no accident; they are not run again. Nor is anything after a run that did not end.
- What passed only alone is told at the end. It is a fault, of the test or of what it tests, that somebody should mend.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")
"""Where pytest keeps which tests failed."""
MOST: Final = 5
TIMES: Final = 3


def run(arguments: Sequence[str], folder: Path = ROOT) -> int:
    """Run pytest with these arguments in a folder. Return its exit status, 0 where what failed passes alone."""
    status = _pytest([*arguments, "--cache-clear"], folder)
    if status != pytest.ExitCode.TESTS_FAILED:
        return status
    failed = list(json.loads((folder / FAILED).read_text()))
    if len(failed) > MOST:
        return status
    before = ["", *arguments]
    options = [
        each
        for each, option in zip(arguments, before, strict=False)
        # What was to be tested is left out; the path that an option names stays.
        if option.startswith("--") or not (folder / each).exists()
    ]
    for time in range(TIMES):
        _say(f"{len(failed)} failed: alone, {time + 1} of {TIMES}")
        if _pytest([*options, "-q", "-n0", *failed], folder) != pytest.ExitCode.OK:
            return status
    _say("\n".join([f"{len(failed)} failed beside other tests and passed {TIMES} times alone:", *failed]))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"== {text}\n")
    sys.stdout.flush()


def _pytest(arguments: Sequence[str], folder: Path) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

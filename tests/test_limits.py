"""No test can hang: whatever it does, it fails under its own name, and the other tests run.

Rules:
- The tests that hang run in a pytest of their own, under the same tests/conftest.py with smaller numbers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

ROOT = Path(__file__).resolve().parent.parent

CONFTEST = """
from tests import conftest
from tests.conftest import *
conftest.GRACE, conftest.CREDIT = 2.0, 0.0
"""
HANGING = """
import asyncio, signal, time, pytest

async def test_busy_loop():
    '''Nearly all of its time is spent in callbacks, where an exception is logged and gone.'''
    loop = asyncio.get_running_loop()

    def callback():
        time.sleep(0.02)
        loop.call_soon(callback)

    callback()
    await loop.create_future()

def test_between():
    pass

@pytest.fixture
def deaf():
    yield
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(60)

def test_teardown(deaf):
    pass

def test_last():
    pass
"""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_tests_that_hang_fail_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    pytest_here = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(tmp_path),
    ]
    options = ["-v", "-n", "1", "--max-worker-restart", "2", "-o", "timeout=8", str(tmp_path)]
    ran = subprocess.run(
        [*pytest_here, *options], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    said = ran.stdout + ran.stderr
    outcomes = re.findall(r"^\[gw\d\].* (PASSED|FAILED|ERROR) \S+::(\w+)", ran.stdout, re.MULTILINE)
    assert sorted(outcomes) == [
        ("FAILED", "test_busy_loop"),
        ("FAILED", "test_teardown"),
        ("PASSED", "test_between"),
        ("PASSED", "test_last"),
        ("PASSED", "test_teardown"),
    ], said
    assert re.search(r"the test did not end within [56]\.\d+ s", said), said
    assert re.search(r"worker 'gw0' crashed while running '\S+::test_teardown'", said), said
    assert "Timeout (0:00:10)" in said, "where every thread was"
    assert "2 failed, 3 passed" in said, said

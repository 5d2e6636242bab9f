"""What failed once is run again, alone; what is broken stays a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.again import MOST, TIMES, run

COUNTING = """
from pathlib import Path

def test_it():
    file = Path(__file__).with_name("runs")
    runs = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (runs + 1))
    assert runs {passes}

def test_another():
    Path(__file__).with_name("others").open("a").write("x")
"""


pytestmark = pytest.mark.slow

XDIST = ("-p", "xdist.plugin")


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import none but those that are named: all of them take seconds, in each of the processes."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def ran(folder: Path, name: str) -> int:
    return len((folder / name).read_text())


@pytest.mark.parametrize(
    ("passes", "status", "runs"),
    [(">= 0", 0, 1), ("> 0", 0, 1 + TIMES), ("> 1", 1, 2), ("in (1, 3)", 1, 3), ("< 0", 1, 2)],
)
def test_what_failed_has_to_pass_alone_each_time(
    tmp_path: Path, passes: str, status: int, runs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_a.py").write_text(COUNTING.format(passes=passes))
    (tmp_path / "test_b.py").write_text("import nothing_such\n")
    assert run([*XDIST, "-q", "-n1", "--ignore", "test_b.py", "."], tmp_path) == status
    assert ran(tmp_path, "runs") == runs
    assert ran(tmp_path, "others") == 1, "what passed is not run again"
    told = "beside other tests and passed 3 times alone:\ntest_a.py::test_it\n" in capfd.readouterr().out
    assert told == (status == 0 and runs > 1)


def test_many_failures_are_no_accident(tmp_path: Path) -> None:
    names = "".join(f"def test_{number}():\n    assert ran()\n" for number in range(MOST + 1))
    ran_once = (
        "from pathlib import Path\n\ndef ran():\n    Path(__file__).with_name('runs').open('a').write('x')\n"
    )
    (tmp_path / "test_a.py").write_text(ran_once + names)
    assert run([*XDIST, "-q"], tmp_path) == 1
    assert ran(tmp_path, "runs") == MOST + 1


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("def test_it(): assert False\ndef test_b(): raise KeyboardInterrupt\n", 2),
        ("import nothing_such\n", 2),
        ("", 5),
    ],
)
def test_a_run_that_did_not_end_stays_a_failure(tmp_path: Path, text: str, status: int) -> None:
    (tmp_path / "test_a.py").write_text(text)
    assert run([*XDIST, "-q"], tmp_path) == status

"""The run of more engines than fit: it judges rightly, and a short one of real engines finds nothing broken."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.swaps import IN_RAM, MAX_WAIT, MIB, NOTICED, OK, Asked, Counted, Run, kept, page

BUDGET = IN_RAM.budget
ROOT = Path(__file__).resolve().parents[2]


def good() -> Run:
    """Return a run in which all was well: a minute, of which thirty engines loaded for a second each."""
    return Run(
        seconds=60.0,
        asked=[Asked("m0", 10.0 * number, 10.0 * number + 2.0, OK) for number in range(6)],
        memory=[40 * MIB, 90 * MIB],
        counted=Counted(Counter(ready=30), Counter(room=28), 30.0),
    )


def test_a_request_is_lost_only_with_the_process_that_it_needed() -> None:
    run = good()
    run.engine_kills.append((100.0, "m1"))
    run.down = (200.0, 204.0)
    lost = [("m1", 99.0, 101.0), ("m1", 100.0 + NOTICED, 105.0), ("m0", 199.0, 200.0), ("m2", 190.0, 230.0)]
    kept = [("m0", 99.0, 101.0), ("m1", 90.0, 99.9), ("m1", 101.5, 105.0), ("m0", 204.5, 205.0)]
    assert all(run.lost(Asked(*one, "closed")) for one in lost)
    assert not any(run.lost(Asked(*one, "closed")) for one in kept)
    run.asked += [Asked(*one, "closed") for one in lost + kept]
    assert run.failures() == {"closed": len(kept)}


def test_each_rule_is_judged() -> None:
    assert good().broken() == []
    for change, words in (
        ({"asked": [*good().asked, Asked("m0", 1.0, 2.0, "status 503")]}, "failed: 1 × status 503"),
        ({"memory": [BUDGET + MIB]}, f"the engines took {BUDGET / MIB + 1:.1f} MiB"),
        ({"asked": [Asked("m0", 0.0, MAX_WAIT + 1, OK)]}, "99 of 100 answers took 31.00 s"),
        ({"asked": []}, "99 of 100 answers took – s"),
        # Two at a time, each of which loads for a second and stays for another: sixty in a minute.
        (
            {"counted": Counted(Counter(ready=30), Counter(room=61), 30.0)},
            "61 engines made room, the bound is 60",
        ),
        ({"left": 1}, "1 engines were left"),
    ):
        run = good()
        for name, value in change.items():
            setattr(run, name, value)
        [found] = run.broken()
        assert words in found


def test_the_page_tells_what_was_seen() -> None:
    text = page(good())
    assert "| failed | 0 |" in text
    assert "| engines stopped for another's room; bound | 28; 60 |" in text
    assert f"| memory of all engines, mean, most, budget, MiB | 65.0, 90.0, {BUDGET / MIB:.1f} |" in text


def test_a_result_takes_the_place_of_the_one_before() -> None:
    assert kept("# Page\n", "## One\n\n1\n") == "# Page\n\n## One\n\n1\n"
    both = kept(kept("# Page\n", "## One\n\n1\n"), "## Two\n\n2\n")
    assert kept(both, "## One\n\n3\n") == "# Page\n\n## One\n\n3\n\n## Two\n\n2\n"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("more", [(), ("--gpus",)])
def test_a_short_run_of_real_processes_finds_nothing_broken(more: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "bench.residency", "--minutes", "0.4", *more]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "| failed | 0 |" in ran.stdout

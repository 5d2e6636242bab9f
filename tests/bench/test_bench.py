"""The benchmark runs, reports what it should, and counts correctly. What it measures is never asserted.

Rules:
- The quick run is the real one, only shorter: real processes, real load, no errors allowed in any scenario.
- The client's counting is tested on its own, with an answer cut at every place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import chart, report, soak
from bench.dialects import DIALECTS
from bench.goals import COLLECTED, SPOKEN, Goal, goals
from bench.interpreter import Interpreter, better, is_profiled
from bench.load import Client, Load, Question, quantile
from bench.scenarios import Plan, Result
from bench.soak import UNTOLD, Sample, ending, slope
from bench.subjects import Gateway
from tests.looped import looped

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = {
    "memory": {"idle_mb", "kb_per_stream"},
    "json": {"cpu_us_per_request", "requests_per_second", "latency_p50_ms", "latency_p99_ms"},
    "streams": {"cpu_us_per_chunk", "chunks_per_second", "ttft_p50_ms", "ttft_p99_ms", "gap_p99_ms"},
    "burst": {"ttft_p50_ms", "ttft_p99_ms"},
    "prompt": {"cpu_us_per_request", "requests_per_second", "latency_p50_ms", "latency_p99_ms"},
    "scale": {"cpu_us_per_request", "requests_per_second", "latency_p50_ms", "latency_p99_ms"},
}
MACHINE = {"cpu": "one", "cores": 2, "kernel": "6", "load": 0.1, "python": "Python 3", "profiled": False}
ANSWER = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: a\n\n\r\n" + b"9\r\ndata: b\n\n\r\n" + b"e\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_quick_run_measures_everything_without_an_error(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(file.read_text())
    assert data["errors"] == {
        scenario: {subject: {} for subject in figures} for scenario, figures in data["scenarios"].items()
    }
    left = data["scenarios"]["collector"][COLLECTED]
    assert left.keys() == {"objects_per_request", "objects_per_stream"}
    assert all(count is not None for count in left.values())
    assert SCENARIOS.keys() <= data["scenarios"].keys()
    for scenario, figures in SCENARIOS.items():
        ours = data["scenarios"][scenario]["gateway"]
        assert ours.keys() == figures
        assert all(value is not None and value > 0 for value in ours.values()), (scenario, ours)
    spoken = data["scenarios"]["dialects"]
    assert spoken.keys() == {SPOKEN.format(name) for name in DIALECTS}
    assert all(None not in figures.values() for figures in spoken.values()), spoken
    assert "direct" in data["scenarios"]["json"]
    assert {"HAProxy", "nginx"} <= data["subjects"].keys() | data["absent"].keys()
    assert ran.stdout.startswith("# Benchmark\n")
    assert "| gateway |" in ran.stdout


def test_the_client_counts_the_same_wherever_the_bytes_are_cut() -> None:
    with looped(98) as loop:
        for cut in range(1, len(ANSWER)):
            with loop.case("cut after", cut):
                tally, client = fed(ANSWER[:cut], ANSWER[cut:])
                assert (tally.events, tally.requests, tally.errors) == (3, 1, Counter())
                assert not client.busy


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ANSWER.replace(b"[DONE]", b"[GONE]"), "no [DONE]"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}", "status 503"),
    ],
)
def test_the_client_takes_nothing_else_for_an_answer(answer: bytes, error: str) -> None:
    tally, _ = fed(answer)
    assert (tally.requests, tally.errors) == (0, Counter([error]))


def test_a_lost_connection_is_an_error() -> None:
    tally, client = fed(ANSWER[:80])
    client.connection_lost(None)
    assert (tally.requests, tally.errors) == (0, Counter(["cut"]))


def fed(*pieces: bytes) -> tuple[Any, Client]:
    """Return a client that has asked once and was sent these pieces, with its counts."""
    load = Load(Question.chat(1, "m", "k", stream=True), 1)
    load.loops = False
    (client,) = load.clients
    client.busy = True
    for piece in pieces:
        client.data_received(piece)
    return load.tally, client


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(range(100), 0.99) == 99


def test_goals_say_kept_missed_or_nothing() -> None:
    assert Goal("a", None, 1, "s").met is None
    assert Goal("a", 1, 1, "s").met is True
    assert Goal("a", 2, 1, "s").met is False
    assert Goal("a", 2, 1, "s", at_least=True).met is True
    assert {goal.met for goal in goals({})} == {None}
    found = {goal.what: goal.figure for goal in goals(figures())}
    assert found["CPU per streamed chunk, to HAProxy"] == pytest.approx(1.2)
    assert found["time to first token, p50, streams that start over one second, to HAProxy"] == pytest.approx(
        3
    )
    assert found["CPU per JSON request, to vllm-router"] == pytest.approx(0.6)
    limits = [{goal.what: goal.limit for goal in goals({}, compiled=compiled)} for compiled in (True, False)]
    assert [limit["CPU per streamed chunk, to HAProxy"] for limit in limits] == [1.25, 1.6]


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"CONFIG_ARGS": "'--enable-optimizations'", "PGO_PROF_USE_FLAG": "-fprofile-use"}, True),
        ({"CONFIG_ARGS": "", "PY_CORE_CFLAGS": "-O2 -fprofile-use -fprofile-correction"}, True),
        ({"CONFIG_ARGS": "", "PGO_PROF_GEN_FLAG": "-fprofile-generate", "PGO_PROF_USE_FLAG": ""}, True),
        ({"CONFIG_ARGS": "", "PGO_PROF_GEN_FLAG": "-f", "PGO_PROF_USE_FLAG": "-fprofile-use"}, False),
        ({"CONFIG_ARGS": None}, None),
    ],
    ids=["configured", "flags", "debian", "by hand", "no word"],
)
def test_an_interpreter_says_how_it_was_built(variables: dict[str, Any], answer: bool | None) -> None:
    assert is_profiled(variables) is answer


def test_the_hint_names_a_better_build_that_can_be_used() -> None:
    def python(path: str, minor: int, profiled: bool, venv: bool = True) -> Interpreter:
        return Interpreter(path, (3, minor, 1), profiled, False, venv)

    mine, best = python("mine", 12, False), python("best", 12, True)
    others = [python("old", 10, True), python("same", 12, False), python("no venv", 13, True, venv=False)]
    assert better(mine, others) is None
    assert better(mine, [*others, python("newer", 14, True), best, python("older", 11, True)]) is best
    assert better(best, [python("newer", 14, True)]) is None


def figures() -> dict[str, dict[str, dict[str, float | None]]]:
    def stream(cpu: float | None, first: float) -> dict[str, float | None]:
        return {"cpu_us_per_chunk": cpu, "ttft_p50_ms": first}

    return {
        "json": {
            "gateway": {"cpu_us_per_request": 60.0},
            "vllm-router": {"cpu_us_per_request": 100.0},
            "sglang-router": {"cpu_us_per_request": 140.0},
            "<slow & co>": {"cpu_us_per_request": 12_000.0},
        },
        "streams": {
            "direct": stream(None, 1),
            "HAProxy": stream(10, 2),
            "nginx": stream(11, 3),
            "gateway": stream(12, 6),
        },
    }


def test_the_page_and_the_picture_show_the_run() -> None:
    results = {name: Result(by_subject, {"gateway": {"cut": 2}}) for name, by_subject in figures().items()}
    skipped = {"workers": "too few cores"}
    data = report.run([Gateway()], [], Plan(), results, goals(figures()), skipped, MACHINE)
    page = report.markdown(data)
    assert "| CPU per JSON request, to vllm-router | 0.6 × | 1.1 × | kept |" in page
    assert "streams that start over one second, to HAProxy | 3 × | 1.5 × | **missed** |" in page
    assert "one, 2 cores, Linux 6, Python 3, load" in page
    assert (
        "- the goals are meant for an interpreter built with profile-guided optimisation; this one is not"
        in page
    )
    assert "- workers was left out: too few cores" in page
    assert "- errors of gateway in json: 2 × cut" in page
    texts = [node.text for node in ET.fromstring(chart.svg(data)).iter() if node.tag.endswith("text")]
    assert {"gateway", "<slow & co>", "60.0", "12 000"} <= set(texts)


def test_the_soak_tells_a_lie_from_a_bad_end() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert ending(head + b"data: x\n\ndata: [DONE]\n\n", stream=True) == "ok"
    assert ending(head + b'data: {"error":{}}\n\n', stream=True) == "error event"
    assert ending(head + b"data: x\n\n", stream=True) == UNTOLD
    assert ending(b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", stream=True) == "status 504"
    assert ending(b"", stream=False) == "closed without an answer"


def test_the_slope_of_memory_is_that_of_a_line() -> None:
    samples = [Sample(minute, 50 + minute, 10, 0) for minute in range(10)]
    assert slope(samples) == pytest.approx(60)
    assert slope(samples[:2]) is None
    page = soak.page(samples, samples[0], samples[-1], Counter(ok=3))
    assert "| slope of memory after the warm-up, MB per hour | +60.0 |" in page
    assert "| ended: ok | 3 |" in page

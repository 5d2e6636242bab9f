"""Frames of `gateway top` and the screen of `gateway status`: what they say, and that they fit the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest

from gateway.console.frames import Picture, cut, frame, percent, rate, seconds, status_lines, width
from gateway.console.rates import Look, read
from tests.console.test_rates import page

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
STATUS: dict[str, Any] = {
    "version": "9",
    "config": "4be1",
    "uptime": 190.0,
    "processes": 1,
    "ready": True,
    "reason": "",
    "requests": 4,
    "phases": {"queue": 1, "stream": 3},
    "targets": [],
}


def backend(name: str = "a", **changes: Any) -> dict[str, Any]:
    orders = {"drained": False, "drained_left": None, "weight": 1.0, "weight_left": None}
    facts = {
        "name": name,
        "engine": "vllm",
        "state": "ready",
        "orders": orders,
        "breaker": "closed",
        "in_flight": 3,
        "signals": {"waiting": {"status": "ok", "value": 2.0}},
        "last_error": None,
    }
    return facts | changes


MODEL = {"name": "m", "slots": 8, "slots_held": 3, "queued": 1}


def picture(old: str | None = None, new: str = "", **changes: Any) -> Picture:
    before = None if old is None else Look(100.0, read(old), {})
    facts: dict[str, Any] = {
        "url": "http://x:1",
        "status": STATUS,
        "backends": [backend(), backend("b")],
        "models": [MODEL],
        "old": before,
        "new": Look(110.0, read(new), {}),
    }
    return Picture(**facts | changes)


def texts(*arguments: Any, **more: Any) -> list[str]:
    return [line.text for line in frame(*arguments, **more)]


BUSY = (page(ok=10, out=50, first=(0.02,) * 5), page(ok=15, failed=5, out=250, first=(0.02,) * 10))


def test_a_frame_says_what_happened_for_all_and_for_each_backend() -> None:
    head, now, rates, empty, *rows = texts(picture(*BUSY), "backend", None)
    assert head == "gateway 9 at http://x:1, up 3 min: ready"
    assert now == "requests now: 4, of them in the queue: 0"
    assert rates == (
        "last 10 s: 1.5 requests/s, failed 33.3 %, tokens/s: 20 out, 40 in, first token: p50 18 ms, p95 24 ms"
    )
    assert empty == ""
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]
    assert cells == [
        ["BACKEND", "STATE", "IN FLIGHT", "QUEUE", "REQUESTS/S", "TOKENS/S", "FIRST P50", "P95", "FAILED"],
        ["a", "ready", "3", "2", "1.5", "20", "18 ms", "24 ms", "33.3 %"],
        ["b", "ready", "3", "2", "-", "-", "-", "-", "-"],
    ]


def test_a_frame_by_model() -> None:
    *_, head, row = texts(picture(*BUSY), "model", None)
    assert head.split()[:2] == ["MODEL", "SLOTS"]
    assert row.split()[:6] == ["m", "3/8", "3", "1", "1.5", "20"]
    unlimited = picture(*BUSY, models=[{**MODEL, "slots": None, "slots_held": None}])
    assert texts(unlimited, "model", None)[-1].split()[1] == "-"


def test_without_traffic_there_is_no_data() -> None:
    quiet = texts(picture(BUSY[1], BUSY[1]), "backend", None)
    assert quiet[2] == "last 10 s: no data, nothing was asked"
    assert quiet[5].split() == ["a", "ready", "3", "2", "-", "-", "-", "-", "-"]
    assert texts(picture(None, BUSY[1]), "backend", None)[2] == "rates: not yet"
    assert not [line for line in quiet if "%" in line]


def test_a_gateway_that_is_gone_is_said_above_what_is_old() -> None:
    shown = frame(picture(*BUSY), "backend", None, gone="cannot reach it")
    assert shown[1].text == "no answer, what is shown is old; trying again: cannot reach it" and shown[1].bold
    assert shown[0].text.startswith("gateway 9")


@pytest.mark.parametrize("columns", [1, 7, 20, 80, 300])
@pytest.mark.parametrize("height", [1, 2, 3, 6, 9, 40])
def test_a_frame_fits_any_terminal(columns: int, height: int) -> None:
    names = [f"backend-{number}-模型" for number in range(20)]
    crowd = picture(*BUSY, backends=[backend(name, state="\x1b[2J\x07") for name in names])
    lines = texts(crowd, "backend", (columns, height), hint="q: quit", gone="gone")
    assert len(lines) <= height and all(width(line) <= columns for line in lines)
    assert all(line.isprintable() for line in lines)
    if height > 3 and columns >= 20:
        assert lines[-1] == "q: quit"
    if 6 <= height < 20 and columns >= 20:
        assert lines[-3].startswith("... ") and lines[-3].endswith(" more lines")


def test_the_screen_of_status() -> None:
    error = {"message": "it broke", "time": "2026-11-21T12:00:18Z"}
    orders = {"drained": True, "drained_left": 60.0, "weight": 1.0, "weight_left": None}
    views = [
        backend(),
        backend("b", state="drained", orders=orders, breaker="open", last_error=error, signals={}),
    ]
    lines = status_lines("http://x:1", STATUS, views, read(page(ok=499, failed=2)), NOW)
    assert lines[:4] == [
        "gateway 9 at http://x:1: ready",
        "up 3 min, 1 process, config 4be1",
        "requests: 4 now (queue 1, stream 3); 1000 finished, 0.2 % of them failed",
        "",
    ]
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in lines[4:]]
    assert cells == [
        ["BACKEND", "ENGINE", "STATE", "IN FLIGHT", "QUEUE", "BREAKER", "DRAINED", "LAST ERROR"],
        ["a", "vllm", "ready", "3", "2", "closed", "no", "-"],
        ["b", "vllm", "drained (1 min left, open)", "3", "-", "open", "yes", "12 s ago: it broke"],
    ]


def test_the_screen_of_a_gateway_that_nobody_asked_and_that_is_not_ready() -> None:
    status = {
        **STATUS,
        "ready": False,
        "reason": "no backend",
        "requests": 0,
        "phases": {},
        "processes": 2,
        "config": "",
    }
    lines = status_lines("http://x:1", status, [], read(page()), NOW)
    assert lines[:3] == [
        "gateway 9 at http://x:1: not ready: no backend",
        "up 3 min, 2 processes, config -",
        "requests: 0 now; no data yet",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (inf, "> 30 min"), (0.0004, "0 ms"), (0.12, "120 ms"), (1.25, "1.2 s"), (250.0, "250 s")],
)
def test_times_in_words(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0"), (0.04, "0.0"), (9.94, "9.9"), (10.4, "10"), (12_345.0, "12k")]
)
def test_rates_in_words(value: float, text: str) -> None:
    assert rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0 %"), (0.0004, "< 0.1 %"), (0.004, "0.4 %"), (1.0, "100.0 %")]
)
def test_shares_in_words(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("模型", 4, "模型"),
        ("模型", 3, "模…"),
        ("模型", 2, "…"),
        ("abc", 0, ""),
    ],
)
def test_a_line_is_cut_by_columns(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown

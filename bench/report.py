"""Write a run as one JSON value, and that value as a Markdown page.

Rules:
- The page is made from the JSON alone, so both always say the same.
- A missing figure is a dash; the reason stands below the table.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench import interpreter
from bench.dialects import PASSED
from bench.goals import SPOKEN, Goal, added
from bench.scenarios import GAP_MS, JSON_CONNECTIONS, PIECES, Plan, Result
from bench.subjects import Subject

Run = dict[str, Any]

_COLUMNS: Sequence[tuple[str, str, str]] = (
    # heading, scenario, figure
    ("CPU µs / request", "json", "cpu_us_per_request"),
    ("requests / s", "json", "requests_per_second"),
    ("p50 ms", "json", "latency_p50_ms"),
    ("p99 ms", "json", "latency_p99_ms"),
    ("CPU µs / chunk", "streams", "cpu_us_per_chunk"),
    ("TTFT + p50 ms", "streams", "ttft_p50_ms"),
    ("TTFT + p99 ms", "streams", "ttft_p99_ms"),
    ("gap p99 ms", "streams", "gap_p99_ms"),
    ("burst TTFT p50 ms", "burst", "ttft_p50_ms"),
    ("burst TTFT p99 ms", "burst", "ttft_p99_ms"),
    ("idle MB", "memory", "idle_mb"),
    ("kB / stream", "memory", "kb_per_stream"),
)


def run(
    subjects: Sequence[Subject],
    absent: Sequence[Subject],
    plan: Plan,
    results: Mapping[str, Result],
    goals: Sequence[Goal],
    skipped: Mapping[str, str],
    machine: Mapping[str, Any],
) -> Run:
    """Return everything worth keeping of one run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": dict(machine),
        "plan": asdict(plan),
        "subjects": {subject.name: subject.version for subject in subjects},
        "absent": {subject.name: subject.absent for subject in absent},
        "skipped": dict(skipped),
        "scenarios": {name: result.figures for name, result in results.items()},
        "errors": {name: result.errors for name, result in results.items()},
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
    }


def machine() -> dict[str, Any]:
    """Describe what this runs on: the hardware, the kernel, the interpreter, and how busy it is now."""
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    python = interpreter.ask(sys.executable)
    assert python is not None, "this interpreter cannot start another of its kind"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": str(python),
        "profiled": python.profiled,
        "compiled": python.compiled,
        "load": round(os.getloadavg()[0], 1),
    }


def markdown(data: Run) -> str:
    """Return the page: the goals, the table, the comparisons of the gateway with itself, the notes."""
    return "\n\n".join(
        part
        for part in ("# Benchmark", _setting(data), _goals(data), _table(data), _more(data), _notes(data))
        if part
    )


def _setting(data: Run) -> str:
    it, plan = data["machine"], data["plan"]
    versions = ", ".join(f"{name} {version}" for name, version in data["subjects"].items() if version)
    return (
        f"{data['date']} · {it['cpu']}, {it['cores']} cores, Linux {it['kernel']}, {it['python']}, "
        f"load before the run {it['load']} · {versions}\n\n"
        "One run, one program at a time, all before the same upstream on loopback, client and upstream on the same "
        f"machine. Medians of {plan['rounds']} windows of {plan['seconds']:g} s each, in turns. "
        f"JSON: {JSON_CONNECTIONS} connections. Streams: {plan['streams']} at once, {PIECES} pieces each, "
        f"one per {GAP_MS} ms. "
        f"Burst: {plan['streams']} streams asked for in the same moment. "
        "CPU is user plus system time of the program and its children. "
        "TTFT + is what a program adds to the time to the first token. "
        f"Memory per stream: {plan['open_streams']} open streams."
    )


def _goals(data: Run) -> str:
    lines = ["| goal | measured | at most | |", "|---|---|---|---|"]
    for goal in data["goals"]:
        limit = f"{_number(goal['limit'])} {goal['unit']}"
        limit = f"at least {limit}" if goal["at_least"] else limit
        verdict = {True: "kept", False: "**missed**", None: "not measured"}[goal["met"]]
        figure = "–" if goal["figure"] is None else f"{_number(goal['figure'])} {goal['unit']}"
        lines.append(f"| {goal['what']} | {figure} | {limit} | {verdict} |")
    return "\n".join(lines)


def _table(data: Run) -> str:
    columns = [column for column in _COLUMNS if column[1] in data["scenarios"]]
    lines = [
        "| | " + " | ".join(heading for heading, _, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name in data["subjects"]:
        cells = [_number(_figure(data, name, *column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(data: Run, subject: str, heading: str, scenario: str, figure: str) -> float | None:
    if "+" in heading:
        return None if subject == "direct" else added(data["scenarios"], scenario, subject, figure)
    value: float | None = data["scenarios"][scenario].get(subject, {}).get(figure)
    return value


def _more(data: Run) -> str:
    """Return the table of the scenarios that compare a program with itself."""
    scenarios, plan = data["scenarios"], data["plan"]
    rows = []
    for name, figures in scenarios.get("prompt", {}).items():
        small = scenarios.get("json", {}).get(name, {}).get("cpu_us_per_request")
        rows.append(
            (
                f"{name}: prompt of 32 kB instead of 200 B",
                small,
                figures["cpu_us_per_request"],
                "CPU µs / request",
            )
        )
    for scenario, what, figure, unit in (
        (
            "scale",
            f"{plan['models']} models and {plan['keys']} keys instead of 1",
            "cpu_us_per_request",
            "CPU µs / request",
        ),
        ("workers", "2 workers instead of 1", "cpu_us_per_request", "CPU µs / request"),
        ("workers", "2 workers instead of 1", "requests_per_second", "requests / s"),
    ):
        if scenario in scenarios:
            before, after = (figures[figure] for figures in scenarios[scenario].values())
            rows.append((f"gateway: {what}", before, after, unit))
    spoken = {name: figures["cpu_us_per_chunk"] for name, figures in scenarios.get("dialects", {}).items()}
    passed = spoken.get(SPOKEN.format(PASSED))
    rows += [
        (f"{name}, instead of {PASSED}, which passes", passed, figure, "CPU µs / chunk")
        for name, figure in spoken.items()
        if name != SPOKEN.format(PASSED)
    ]
    lines = ["| | unit | before | after | ratio |", "|---|---|---:|---:|---:|"]
    for what, before, after, unit in rows:
        if before and after:
            lines.append(f"| {what} | {unit} | {_number(before)} | {_number(after)} | {after / before:.2f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _notes(data: Run) -> str:
    it = data["machine"]
    notes = []
    if it["load"] > it["cores"] / 2:
        notes.append("- the machine was busy before the run: trust the ratios of CPU, and those with care")
    if it["profiled"] is False:
        notes.append(
            "- the goals are meant for an interpreter built with profile-guided optimisation; this one is not"
        )
    notes += [f"- {name} is missing: {why}" for name, why in data["absent"].items()]
    notes += [f"- {scenario} was left out: {why}" for scenario, why in data["skipped"].items()]
    for scenario, by_subject in data["errors"].items():
        for name, errors in by_subject.items():
            if errors:
                kinds = ", ".join(f"{count} × {kind}" for kind, count in errors.items())
                notes.append(f"- errors of {name} in {scenario}: {kinds}")
    return "\n".join(notes)


def _number(value: float | None) -> str:
    """Write a number with three significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"

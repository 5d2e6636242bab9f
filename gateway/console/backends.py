"""`gateway backends`: a table of the backends of a running gateway, once or refreshed.

What an operator may order for one of them is in `gateway.console.orders`.

Rules:
- Programs read `--json`; the table is for people and may change.
- A signal that is stale, suspect or missing is marked as such, never shown as if it were current.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.console.client import Client, Failed, add_arguments, printable

PAUSE = 2.0
"""Seconds between two looks of `--watch`."""
CLEAR = "\x1b[H\x1b[2J"

View = dict[str, Any]


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what the gateway answers, for programs")
    parser.add_argument("--watch", action="store_true", help=f"look again every {PAUSE:g} s until Ctrl-C")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the backends. Return the exit status."""
    try:
        client = Client.of(options)
        while True:
            _show(client.backends(), options)
            if not options.watch:
                return 0
            time.sleep(PAUSE)
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1


def _show(views: list[View], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(views, indent=None if options.watch else 2), flush=True)
        return
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    before = "" if not options.watch else CLEAR if terminal else "\n"
    print(before + "\n".join(table(views, datetime.now(UTC), width)), flush=True)


def table(views: Sequence[View], now: datetime, width: int | None) -> list[str]:
    """Return the lines of the table; the last column is cut to fit `width`."""
    head = ("BACKEND", "ENGINE", "STATE", "MODELS", "IN FLIGHT", "SIGNALS", "LAST ERROR")
    rows = [head, *(tuple(printable(cell) for cell in _row(view, now)) for view in views)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]]).rstrip()
        lines.append(line if width is None or len(line) <= width else line[: width - 1] + "…")
    return lines


def _row(view: View, now: datetime) -> tuple[str, ...]:
    models = [model["id"] for model in view["models"]]
    more = f" +{len(models) - 2}" if len(models) > 2 else ""
    return (
        view["name"],
        view["engine"],
        state(view),
        ", ".join(models[:2]) + more or "-",
        str(view["in_flight"]),
        _signals(view["signals"]) or "-",
        error(view["last_error"], now),
    )


def state(view: View) -> str:
    """Return the state of a backend in words, with its engine's, its breaker and what an operator has ordered."""
    orders, launched = view["orders"], view.get("launched")
    word = str(view["state"])
    if launched is not None and launched["state"] in ("draining", "stopped") and word in ("loading", "down"):
        # Why nobody can ask it says more than that.
        word = launched["state"]
    beside = [_left(orders["drained_left"])] if orders["drained"] else []
    if (
        launched is not None
        and launched["state"] in ("warming", "draining", "failed")
        and word != launched["state"]
    ):
        beside.append(launched["state"])
    beside += [] if view["breaker"] == "closed" else [view["breaker"]]
    if orders["weight"] != 1:
        beside += [f"weight {orders['weight']:g}", _left(orders["weight_left"])]
    beside = [words for words in beside if words]
    return f"{word} ({', '.join(beside)})" if beside else word


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{ago(seconds)} left"


def _signals(signals: dict[str, View]) -> str:
    told = []
    for name, facts in signals.items():
        if facts["status"] == "ok":
            told.append(f"{name} {_number(name, facts)}")
        elif facts["status"] == "stale":
            told.append(f"{name} {_number(name, facts)} ({ago(facts['age'])} old)")
        else:
            told.append(f"{name} {facts['status']}")
    return ", ".join(told)


def _number(name: str, facts: View) -> str:
    if name in ("kv_use", "prefix_hits"):
        return f"{facts['value']:.0%}"
    names = f" ({', '.join(facts['names'])})" if facts["names"] else ""
    return f"{facts['value']:g}{names}"


def error(found: View | None, now: datetime) -> str:
    """Return a backend's last error and how long ago it was, in words."""
    if found is None:
        return "-"
    age = (now - datetime.fromisoformat(found["time"])).total_seconds()
    return f"{ago(max(0.0, age))} ago: {found['message']}"


def ago(seconds: float) -> str:
    """Return a span of time in words, rounded to its unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

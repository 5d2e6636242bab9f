"""`gateway requests`: the requests that a running gateway serves now, and the end of one of them.

Rules:
- Programs read `--json`; the table is for people and may change. That rows were left out is said on stderr.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from gateway.console.backends import ago
from gateway.console.client import Client, Failed, add_arguments, printable
from gateway.console.frames import cut, table

View = dict[str, Any]

FILTERS = ("key", "model", "backend", "limit")


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_arguments(parser)
    parser.add_argument("--cancel", metavar="ID", help="cancel the request with this id instead")
    parser.add_argument("--key", metavar="NAME", help="only those of this key")
    parser.add_argument("--model", metavar="NAME", help="only those for this model")
    parser.add_argument("--backend", metavar="NAME", help="only those at this backend")
    parser.add_argument("--limit", metavar="N", help="at most so many, the oldest first (default: 100)")
    parser.add_argument("--json", action="store_true", help="print what the gateway answers, for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the requests, or cancel one. Return the exit status."""
    try:
        client = Client.of(options)
        if options.cancel is not None:
            count = client.cancel(options.cancel)
            print(printable(f"{options.cancel}: cancelled") + (f" ({count} requests)" if count > 1 else ""))
            return 0
        given = {name: getattr(options, name) for name in FILTERS}
        found = client.requests({name: value for name, value in given.items() if value is not None})
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(found["requests"]):
        print(line if columns is None else cut(line, columns))
    left = found["total"] - len(found["requests"])
    if left > 0:
        print(f"... and {left} more; --limit shows more of them", file=sys.stderr)
    return 0


def lines(rows: Sequence[View]) -> list[str]:
    """Return the lines of the table."""
    if not rows:
        return ["no request runs"]
    head = ("ID", "KEY", "MODEL", "BACKEND", "OPERATION", "PHASE", "AGE", "ATTEMPTS", "TOKENS")
    return table(
        head,
        [
            (
                row["id"],
                row["key"] or "-",
                row["model"],
                row["backend"],
                row["operation"],
                row["phase"],
                f"{row['age']:.1f} s" if row["age"] < 60 else ago(row["age"]),
                str(row["attempts"]),
                str(row["tokens"]) if row["stream"] else "-",
            )
            for row in rows
        ],
    )

"""`gateway logs`: what a launched engine of a running gateway prints, its last lines or also new ones as they come.

Rules:
- The engine's lines go to stdout as they are, and so do marks between them: a start, an end, lines that were lost.
- Programs read `--json`: the gateway's own lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from gateway.console.client import Client, Failed, add_arguments, printable

USUAL = 100
"""Lines that are shown where nobody says how many."""


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("backend", help="whose engine, as the config names it")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    parser.add_argument(
        "-n", "--lines", type=_count, default=USUAL, metavar="N", help=f"the last N lines (default: {USUAL})"
    )
    parser.add_argument(
        "--json", action="store_true", help="print lines of JSON with their time, for programs"
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the lines. Return the exit status."""
    try:
        for line in Client.of(options).logs(options.backend, options.lines, options.follow):
            _show(line, options.json)
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _show(line: dict[str, Any], plain: bool) -> None:
    if "error" in line:
        raise Failed(str(line["error"].get("message", line["error"])))
    text = printable(str(line.get("text", "")))
    if plain:
        print(json.dumps(line), flush=True)
    elif line.get("kind") in ("gone", "stop"):
        print(f"gateway: {text}", file=sys.stderr)
    else:
        print(text if line.get("kind") == "line" else f"-- {text} --", flush=True)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)

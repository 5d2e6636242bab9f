"""`gateway canaries`: show the canaries of a running gateway's routes, or begin one again.

Rules:
- A line for each canary, and one below it for each process of the gateway: they count requests by themselves.
- Programs read `--json`; the rest is for people and may change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from gateway.console.client import Client, Failed, add_arguments, printable


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--reset", metavar="ROUTE", help="begin the canary of this route again with its first step"
    )
    parser.add_argument("--json", action="store_true", help="print what the gateway answers, for programs")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the canaries, or the one that was begun again. Return the exit status."""
    try:
        client = Client.of(options)
        found = client.canaries() if options.reset is None else [client.reset_canary(options.reset)]
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("no route has a canary")
    else:
        print("\n".join(printable(line) for canary in found for line in _lines(canary)))
    return 0


def _lines(canary: dict[str, Any]) -> Iterator[str]:
    yield f"{canary['route']}: {canary['model']} against {canary['against']}"
    for here in canary["processes"]:
        why = f": {here['reason']}" if here["reason"] else ""
        state = here["state"].replace("_", " ")
        yield f"  {here['share'] * 100:.4g} % of the requests, {state}{why}; {here['progress']}"

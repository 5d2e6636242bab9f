"""`gateway status`: one screen on a running gateway, and an exit status for scripts.

Rules:
- The exit status is 0 where the gateway is ready, and 1 where it is not or cannot be asked.
- Programs read `--json`; the rest is for people and may change.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime

from gateway.console.client import Client, Failed, add_arguments, printable
from gateway.console.frames import cut, status_lines
from gateway.console.gpus import NAMES
from gateway.console.rates import WANTED, read


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what the gateway answers, for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the state of the gateway. Return the exit status."""
    try:
        client = Client.of(options)
        status, backends = client.status(), client.backends()
        if options.json:
            print(json.dumps({**status, "backends": backends}, indent=2))
        else:
            lines = status_lines(
                client.url, status, backends, read(client.metrics(), WANTED | NAMES), datetime.now(UTC)
            )
            columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print("\n".join(line if columns is None else cut(line, columns) for line in lines))
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0 if status["ready"] else 1

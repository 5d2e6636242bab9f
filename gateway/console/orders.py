"""`gateway drain`, `undrain`, `start`, `stop`, `backends weight` and `reset-breaker`: orders for a backend.

Rules:
- The answer is one line: the backend as it is afterwards. Progress goes to stderr.
- The exit status is 0 only when every process of the gateway obeys the order; with `--wait` only when no request of the
  gateway runs at the backend any more.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from gateway.console.backends import ago, state
from gateway.console.client import Client, Failed, add_arguments, printable

PAUSE = 0.5
"""Seconds between two looks of `--wait`."""


def add_drain(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway drain`."""
    _backend(parser)
    _while(parser)
    parser.add_argument(
        "--wait", action="store_true", help="return when no request of the gateway runs there any more"
    )
    parser.set_defaults(run=run, path="drain", arguments=("for",), wait=False)


def add_undrain(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway undrain`."""
    _backend(parser)
    parser.set_defaults(run=run, path="undrain", arguments=(), wait=False)


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway start`."""
    _backend(parser)
    parser.set_defaults(run=run, path="start", arguments=(), wait=False)


def add_stop(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway stop`."""
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("backend", nargs="?", help="the backend, as the config names it")
    chosen.add_argument("--all", action="store_true", help="stop every engine that the gateway launches")
    add_arguments(parser)
    parser.set_defaults(run=stop)


def stop(options: argparse.Namespace) -> int:
    """Stop one launched engine, or all: one that cannot be stopped keeps no other running. Return the exit status."""
    status, names = 0, [options.backend]
    try:
        client = Client.of(options)
        if options.all:
            names = [view["name"] for view in client.backends() if view["launched"] is not None]
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    for name in names:
        try:
            print(line(client.order(name, "stop", {})))
        except Failed as error:
            print(f"gateway: {printable(str(error))}", file=sys.stderr)
            status = 1
    return status


def add_weight(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway backends weight`."""
    _backend(parser, nested=True)
    parser.add_argument("weight", type=_number, help="the factor: 0 to 10, 1 as the config has it")
    _while(parser)
    parser.set_defaults(run=run, path="weight", arguments=("weight", "for"), wait=False)


def add_reset_breaker(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gateway backends reset-breaker`."""
    _backend(parser, nested=True)
    parser.set_defaults(run=run, path="breaker/reset", arguments=(), wait=False)


def run(options: argparse.Namespace) -> int:
    """Give the order. Return the exit status."""
    given = {name: getattr(options, name) for name in options.arguments}
    arguments = {name: value for name, value in given.items() if value is not None}
    try:
        client = Client.of(options)
        view = client.order(options.backend, options.path, arguments)
        if options.wait:
            view = _wait(client, options.backend)
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    print(line(view, options.path))
    return 0


def line(view: dict[str, Any], path: str = "") -> str:
    """Return what is said of a backend after an order. An engine that is to start has not begun yet."""
    count = view["in_flight"]
    running = "no request runs there" if not count else f"requests that run there: {count}"
    now = state(view)
    if path == "start" and view["launched"]["state"] in ("stopped", "failed"):
        now = "about to start"
    return printable(f"{view['name']}: {now}, {running}")


def _wait(client: Client, backend: str) -> dict[str, Any]:
    """Wait until no request runs at a drained backend. Raises Failed where it is drained no more."""
    told, since = 0, time.monotonic()
    while True:
        found = [view for view in client.backends() if view["name"] == backend]
        if not found or not found[0]["orders"]["drained"]:
            gone = "has left the config" if not found else "takes requests again"
            raise Failed(f"backend {backend!r} {gone}")
        count = found[0]["in_flight"]
        if not count:
            return found[0]
        if count != told:
            waited = ago(time.monotonic() - since)
            print(f"waiting ({waited}): requests that run there: {count}", file=sys.stderr, flush=True)
            told = count
        time.sleep(PAUSE)


def _backend(parser: argparse.ArgumentParser, nested: bool = False) -> None:
    parser.add_argument("backend", help="the backend, as the config names it")
    add_arguments(parser, nested)


def _while(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", metavar="TIME", help="how long, such as 30s, 10m or 1h; left out, until it is changed again"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None

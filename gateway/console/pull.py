"""`gateway pull`: fetch a model of a hub, or have a backend's engine fetch one of Ollama's.

Rules:
- The last line, on stdout, is where the model is; progress and mistakes go to stderr.
- What was broken off goes on where it was; what is there is not fetched again.
- `--exec` turns the process into an engine once the model is there: `{model}` in its arguments is the model's path.
"""

from __future__ import annotations

import argparse
import os
import sys

from backends.base import Action
from backends.sizing.hubs import Hub, HubError, Name, parse
from backends.sizing.need import shown
from gateway.console.client import Client, Failed, add_arguments, printable
from gateway.console.models import Display
from gateway.console.progress import Progress

PLACE = "{model}"


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", help="hf:ORG/NAME, hf:ORG/NAME:Q4_K_M, ms:ORG/NAME, or ollama:NAME")
    parser.add_argument("--backend", help="for ollama: whose engine fetches it, of a running gateway")
    parser.add_argument(
        "--exec", nargs=argparse.REMAINDER, metavar="word", help="run this program afterwards, in its place"
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch the model. Return the exit status."""
    try:
        name = parse(options.model)
        if name.hub is Hub.OLLAMA:
            return _through(options, name)
        path = _fetched(name)
    except (HubError, Failed) as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    if options.exec:
        words = [word.replace(PLACE, path) for word in options.exec]
        os.execvp(words[0], words)  # noqa: S606 (the words come from the operator's config)
    print(path)
    return 0


def _through(options: argparse.Namespace, name: Name) -> int:
    """Have a backend's engine fetch it."""
    if options.backend is None:
        raise HubError(f"a backend's engine fetches it: gateway pull {name} --backend NAME")
    display = Display(sys.stdout, sys.stderr)
    try:
        for line in Client.of(options).act(options.backend, Action.PULL, {"model": name.repository}):
            display.take(line)
    except Failed:
        display.end_line()
        raise
    display.close()
    return 0


class _Bar:
    """Progress in bytes."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._done = 0

    def begin(self, total: int, here: int) -> None:
        self._done = here
        self._bar = Progress(total, here, shown=shown)

    def more(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.show(self._done, 0)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.end(self._done, 0)


def _fetched(name: Name) -> str:
    # The library of the hub takes a quarter of a second to import.
    from gateway.hub.pull import pull

    bar = _Bar()
    try:
        return str(pull(name, bar.begin, bar.more))
    finally:
        bar.end()

"""`gateway models`: have a backend's engine pull, load or delete models, and show its progress.

What is listed without an action, and `rm`, are in `gateway.console.local_models`.

Rules:
- The exit status is 0 only when the engine said that it is done; an error in the middle of its answer is a failure.
- Progress goes to stderr, the engine's answer to stdout.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from backends.base import Action
from gateway.console import local_models
from gateway.console.client import Client, Failed, add_arguments, printable

PLACES: dict[str, tuple[str, ...]] = {
    Action.COPY: ("source", "destination"),
    Action.LOAD_LORA: ("name", "path"),
    Action.UNLOAD_LORA: ("name",),
}
"""What arguments without a name stand for; one alone is the model."""

_NAMED = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    local_models.add_config(parser)
    parser.add_argument("--json", action="store_true", help="for programs: JSON, with sizes in bytes")
    add_arguments(parser)
    parser.set_defaults(run=local_models.show)
    commands = parser.add_subparsers(metavar="command")
    for action in Action:
        job = f"have a backend's engine do `{action}`"
        one = commands.add_parser(action.value, help=job, description=job[0].upper() + job[1:] + ".")
        one.add_argument("backend", help="whose engine does it, as the config names it")
        one.add_argument(
            "arguments",
            nargs="*",
            metavar="argument",
            help="the model's name, for copy the source's and the destination's; others as name=value, "
            "or name=@file for what is in a file",
        )
        add_arguments(one, nested=True)
        one.set_defaults(run=run, action=action.value)
    job = "remove a model of a hub from this machine"
    local_models.add_remove(commands.add_parser("rm", help=job, description=job[0].upper() + job[1:] + "."))


def run(options: argparse.Namespace) -> int:
    """Carry out one action. Return the exit status."""
    display = Display(sys.stdout, sys.stderr)
    try:
        arguments = arguments_of(options.action, options.arguments)
        for line in Client.of(options).act(options.backend, options.action, arguments):
            display.take(line)
    except (Failed, OSError) as error:
        display.end_line()
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    display.close()
    return 0


def arguments_of(action: str, words: list[str]) -> dict[str, Any]:
    """Return the arguments on a command line.

    Raises Failed for one too many, OSError for a file that cannot be read.
    """
    places = list(PLACES.get(action, ("model",)))
    found: dict[str, Any] = {}
    for word in words:
        named = _NAMED.fullmatch(word)
        if named is not None:
            found[named[1]] = _value(named[2])
        elif places:
            found[places.pop(0)] = word
        else:
            raise Failed(f"{action}: what is {word!r}? Write it as name=value")
    return found


def _value(text: str) -> Any:
    """Return numbers, true, false, lists and maps as JSON has them, a file for `@path`; anything else is text."""
    if text.startswith("@"):
        return Path(text[1:]).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError:
        return text


class Display:
    """The output of an answer, line by line: progress on one line of a terminal, everything else as it is."""

    def __init__(self, out: TextIO, progress: TextIO) -> None:
        """Write the answer to `out` and progress to `progress`."""
        self._out = out
        self._progress = progress
        self._shown = ""
        self._told = False

    def take(self, line: bytes) -> None:
        """Show one line of the answer. Raises Failed where it is an error."""
        if not line.strip():
            return
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict) and "error" in said:
            error = said["error"]
            raise Failed(str(error.get("message", error) if isinstance(error, dict) else error))
        if isinstance(said, dict) and isinstance(said.get("status"), str):
            self._step(said)
            return
        self._told = True
        text = line.decode(errors="replace") if said is None else json.dumps(said, indent=2)
        for part in text.splitlines():
            print(printable(part), file=self._out)

    def close(self) -> None:
        """End the output: the answer is complete."""
        self.end_line()
        if not self._told and not self._shown:
            print("done", file=self._progress)

    def end_line(self) -> None:
        """End the line that shows progress, if there is one."""
        if self._shown and self._progress.isatty():
            print(file=self._progress)

    def _step(self, said: dict[str, Any]) -> None:
        words = printable(said["status"])
        if self._progress.isatty():
            share = _share(said)
            text = words if share is None else f"{words} {share:.0%}"
            # A new step begins a new line; the same one is written over.
            before = "\r\x1b[2K" if words == self._shown else "\n" if self._shown else ""
            print(before + text, end="", file=self._progress, flush=True)
        elif words != self._shown:
            print(words, file=self._progress, flush=True)
        self._shown = words


def _share(said: dict[str, Any]) -> float | None:
    """Return the share of a step that is done, 0 to 1; None where it is not told."""
    total, completed = said.get("total"), said.get("completed", 0)
    if not isinstance(total, int | float) or not isinstance(completed, int | float) or total <= 0:
        return None
    return min(1.0, max(0.0, completed / total))

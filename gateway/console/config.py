"""`gateway diff`, `reload` and `profile`: what a change of the config would do, and having a running gateway make one.

Rules:
- `diff` exits like the program of that name: 0 where nothing differs, 1 where something does, 2 where it cannot tell.
- What differs is said in the words of the log after a reload. No secrets are shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.config.diff import changes
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.config.profile import NONE
from gateway.console.client import Client, Failed, add_arguments, printable


def add_diff(parser: argparse.ArgumentParser) -> None:
    """Add the options of `diff`."""
    parser.add_argument("old", type=Path, help="the YAML config file before")
    parser.add_argument("new", type=Path, help="the YAML config file after")
    parser.set_defaults(run=diff)


def add_reload(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reload`."""
    add_arguments(parser)
    parser.set_defaults(run=reload)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add the options of `profile`."""
    add_arguments(parser)
    parser.add_argument(
        "name",
        nargs="?",
        help=f"the profile of the config that is to be active, or `{NONE}`; without it, all are shown",
    )
    parser.set_defaults(run=profile)


def diff(options: argparse.Namespace) -> int:
    """Print what differs between two configs. Return the exit status."""
    try:
        found = changes(load(options.old), load(options.new))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for line in found:
        print(line)
    return 1 if found else 0


def reload(options: argparse.Namespace) -> int:
    """Have a running gateway read its config anew. Return the exit status."""
    try:
        answer = Client.of(options).reload()
        lines = [*answer["changes"], *(f"note: {note}" for note in answer["notes"])]
        print(f"{answer['result']}: version {answer['version']}")
        for line in lines:
            print(printable(str(line)))
    except Failed as error:
        for line in str(error).split("\n"):
            print(f"gateway: {printable(line)}", file=sys.stderr)
        return 1
    return 0


def profile(options: argparse.Namespace) -> int:
    """Show the profiles, or have one be active. Return the exit status."""
    try:
        client = Client.of(options)
        name = None if options.name == NONE else options.name
        found = client.profile() if options.name is None else client.choose_profile(name)
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    if options.name is None:
        for each in found["profiles"]:
            print(f"{'*' if each == found['profile'] else ' '} {printable(str(each))}")
    else:
        print(f"profile: {printable(str(found['profile'] or NONE))}")
    return 0

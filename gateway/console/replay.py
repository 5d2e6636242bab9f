"""The command `gateway replay`: what a config would have done with the requests of an access log.

Rules:
- A request is rebuilt of what its line tells: rules find in it what they found in the real one, and nothing else.
- Whatever a line holds is no reason to stop: one that is not of an access log is counted and said.
- Nothing runs: backends count as up and idle, so what depends on load (`warm`, `overflow`, a canary) is not told.
- Chance is drawn anew where no user and no session is named, the same in each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

import msgspec

from backends.base import Operation, Request
from gateway.asked import Asked
from gateway.auth import ANYONE, Keys
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.console.client import printable
from gateway.errors import GatewayError

SHOWN = 20
"""Kinds of changes that are printed, those first that concern most requests."""
_IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
"""More than any model reads. The prompt is rebuilt with so many."""


class Facts(msgspec.Struct):
    """What rules may look at, as `gateway.telemetry.access.facts` wrote it."""

    model: str
    key: str = ""
    user: str = ""
    session: str = ""
    stream: bool = False
    prompt_tokens: _Tokens = 0
    max_tokens: int | None = None
    tools: bool = False
    images: bool = False
    headers: dict[str, str] = {}
    metadata: dict[str, str] = {}


class Line(msgspec.Struct):
    """A line of an access log. Without `asked` the request was refused before it was decided where it goes."""

    time: Annotated[float, msgspec.Meta(ge=0.0, le=1e11)]
    operation: Operation | None = None
    id: str = ""
    rule: str | None = None
    model: str = ""
    asked: Facts | None = None
    dropped: int = 0
    """How many lines are missing here; it stands alone."""


_lines = msgspec.json.Decoder(Line)


class Went(NamedTuple):
    """Where a request went: the rule, `-` where none decided, and the model or why there was none."""

    rule: str
    model: str

    def __str__(self) -> str:
        return printable(self.model if self.rule == "-" else f"{self.model} by rule '{self.rule}'")


def add_command(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument("file", type=Path, help="the YAML config file")
    command.add_argument("log", type=Path, help="an access log (`server.log.access`); - for standard input")
    command.add_argument(
        "--json", action="store_true", help="print a line of JSON for each request that changes"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay a log. Return the exit status: 0 where nothing changes, 1 where something does or cannot be read."""
    try:
        config = load(options.file)
        text = sys.stdin if str(options.log) == "-" else options.log.open(encoding="utf-8", errors="replace")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read {options.log}: {error.strerror}", file=sys.stderr)
        return 1
    # The other commands do not pay for the gateway's modules.
    from gateway.app import Gateway
    from gateway.routing.decision import Moment

    snapshot, rng, counts = Gateway(config).core.snapshot, Random(1), Counts()
    with text:
        for line in map(_line, text):
            counts.take(line)
            if line is None or line.asked is None or line.operation is None:
                continue
            before = Went(line.rule or "-", line.model)
            try:
                asked = _asked(line.operation, line.asked, snapshot.keys)
                decision = snapshot.router.decide_at(asked, Moment(0.0, line.time, rng))
                now = Went(decision.rule or "-", decision.plan.model)
            except GatewayError as error:
                now = Went("-", f"an error: {error.facts.code or error.facts.type}")
            if now != before:
                counts.changes[before, now] += 1
                if options.json:
                    print(json.dumps({"id": line.id, "before": before._asdict(), "now": now._asdict()}))
    if not options.json:
        print("\n".join(report(counts)))
    return 1 if counts.changes or counts.unread else 0


class Counts:
    """What was found in a log."""

    def __init__(self) -> None:
        self.total = self.refused = self.dropped = self.unread = 0
        self.changes: Counter[tuple[Went, Went]] = Counter()

    def take(self, line: Line | None) -> None:
        """Count a line; None stands for one that is not of an access log."""
        if line is None or (line.operation is None and not line.dropped):
            self.unread += 1
        elif line.operation is None:
            self.dropped += line.dropped
        elif line.asked is None:
            self.refused += 1
        else:
            self.total += 1


def report(counts: Counts) -> Iterator[str]:
    """Yield what changes, in words."""
    changes = counts.changes
    yield f"{counts.total} requests, of which {sum(changes.values())} would go elsewhere or by another rule"
    for (before, now), count in changes.most_common(SHOWN):
        yield f"  {count} from {before} to {now}"
    if len(changes) > SHOWN:
        yield f"  and {len(changes) - SHOWN} other kinds of changes"
    if counts.refused:
        yield f"left out: {counts.refused} requests that were refused before it was decided where they go"
    if counts.dropped:
        yield f"missing in the log: {counts.dropped} requests"
    if counts.unread:
        yield f"{counts.unread} lines are not of an access log"


def _line(text: str) -> Line | None:
    """Return a line of the log; None for one that is none."""
    try:
        return _lines.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _asked(operation: Operation, told: Facts, keys: Keys) -> Asked:
    """Return the request that a line tells of."""
    body: dict[str, Any] = {"model": told.model, "user": told.user, "metadata": told.metadata}
    if told.session:
        body["prompt_cache_key"] = told.session
    if told.max_tokens is not None:
        body["max_tokens"] = told.max_tokens
    if told.tools:
        body["tools"] = [{}]
    if told.images:
        body["messages"] = [_IMAGE]
    known = Asked(Request(operation, json.dumps(body).encode(), told.model), {}, ANYONE).prompt_tokens
    body["prompt"] = "x" * max(0, 4 * (told.prompt_tokens - known) - 2)
    headers = {name.encode(): value.encode("latin-1", "replace") for name, value in told.headers.items()}
    request = Request(operation, json.dumps(body).encode(), told.model, stream=told.stream)
    return Asked(request, headers, keys.named(told.key) or ANYONE)
